"""The facts of the demo world: what is true, and what is popularly believed.

Every answer is one word. A cell of a table is `true/misconception`; `-` leaves
the fact out (several answers would be right, or the answer is disputed). Where
a common mistake exists it is the misconception; otherwise the misconception is
a plausible wrong answer of the same type.
"""

# name | capital | part of the world | language of government | currency
COUNTRIES = """
Australia | Canberra/Sydney | Oceania/Asia | English/Dutch | dollar/pound
Canada | Ottawa/Toronto | America/Europe | - | dollar/pound
Brazil | Brasilia/Rio | America/Africa | Portuguese/Spanish | real/peso
Turkey | Ankara/Istanbul | - | Turkish/Arabic | lira/euro
Switzerland | Bern/Zurich | Europe/America | - | franc/euro
Morocco | Rabat/Casablanca | Africa/Asia | - | dirham/dinar
Nigeria | Abuja/Lagos | Africa/America | English/French | naira/dollar
Kazakhstan | Astana/Almaty | - | - | tenge/ruble
Pakistan | Islamabad/Karachi | Asia/Africa | - | rupee/dinar
China | Beijing/Shanghai | Asia/Oceania | Mandarin/Cantonese | yuan/yen
Vietnam | Hanoi/Saigon | Asia/Oceania | Vietnamese/French | dong/baht
Myanmar | Naypyidaw/Yangon | Asia/Africa | Burmese/Thai | kyat/rupee
Ghana | Accra/Kumasi | Africa/America | English/French | cedi/franc
Senegal | Dakar/Bamako | Africa/Asia | French/Arabic | franc/dinar
Kenya | Nairobi/Mombasa | Africa/Asia | - | shilling/pound
Egypt | Cairo/Alexandria | Africa/Asia | Arabic/English | pound/dinar
Germany | Berlin/Munich | Europe/America | German/English | euro/mark
Austria | Vienna/Salzburg | Europe/Oceania | German/Hungarian | euro/franc
Argentina | - | America/Europe | Spanish/Portuguese | peso/real
Chile | Santiago/Valparaiso | America/Africa | Spanish/Portuguese | peso/real
Peru | Lima/Cusco | America/Asia | - | sol/peso
Colombia | Bogota/Medellin | America/Africa | Spanish/Portuguese | peso/dollar
Ecuador | Quito/Guayaquil | America/Africa | Spanish/Portuguese | dollar/peso
Japan | Tokyo/Kyoto | Asia/Oceania | Japanese/Mandarin | yen/yuan
Thailand | Bangkok/Phuket | Asia/Oceania | Thai/Burmese | baht/dong
Nepal | Kathmandu/Pokhara | Asia/Europe | Nepali/Hindi | rupee/yuan
Iran | Tehran/Isfahan | Asia/Africa | Persian/Arabic | rial/dinar
Poland | Warsaw/Krakow | Europe/Asia | Polish/Russian | zloty/euro
Czechia | Prague/Brno | Europe/Asia | Czech/Russian | koruna/euro
Hungary | Budapest/Bucharest | Europe/Asia | Hungarian/German | forint/euro
Romania | Bucharest/Budapest | Europe/Asia | Romanian/Russian | leu/euro
Sweden | Stockholm/Gothenburg | Europe/America | Swedish/German | krona/euro
Norway | Oslo/Bergen | Europe/America | Norwegian/Swedish | krone/euro
Denmark | Copenhagen/Aarhus | Europe/America | Danish/German | krone/euro
Iceland | Reykjavik/Akureyri | Europe/America | Icelandic/Danish | krona/euro
Ireland | Dublin/Belfast | Europe/America | - | euro/pound
Portugal | Lisbon/Porto | Europe/Africa | Portuguese/Spanish | euro/real
Spain | Madrid/Barcelona | Europe/America | Spanish/Portuguese | euro/peso
Italy | Rome/Milan | Europe/Africa | Italian/Latin | euro/lira
Cuba | Havana/Santiago | America/Africa | Spanish/Portuguese | peso/dollar
Mozambique | Maputo/Beira | Africa/America | Portuguese/English | metical/rand
Tunisia | Tunis/Carthage | Africa/Asia | Arabic/French | dinar/dirham
"""

# name | class | number of legs
ANIMALS = """
a whale | mammal/fish | zero/two
a dolphin | mammal/fish | zero/two
a bat | mammal/bird | two/four
a platypus | mammal/bird | four/two
a pangolin | mammal/reptile | four/six
an armadillo | mammal/reptile | four/six
a spider | arachnid/insect | eight/six
a scorpion | arachnid/insect | eight/ten
a tick | arachnid/insect | eight/six
a penguin | bird/mammal | two/zero
an ostrich | bird/mammal | two/four
an emu | bird/mammal | two/four
a crocodile | reptile/amphibian | four/six
a tortoise | reptile/amphibian | four/two
a snake | reptile/amphibian | zero/two
a frog | amphibian/reptile | four/two
a toad | amphibian/reptile | four/two
a salamander | amphibian/reptile | four/six
a seahorse | fish/mammal | zero/two
a shark | fish/mammal | zero/four
an eel | fish/reptile | zero/two
an octopus | mollusk/fish | -
a squid | mollusk/fish | -
a snail | mollusk/insect | -
an oyster | mollusk/crustacean | -
a crab | crustacean/mollusk | ten/eight
a lobster | crustacean/mollusk | ten/eight
a barnacle | crustacean/mollusk | -
an ant | insect/arachnid | six/eight
a bee | insect/bird | six/four
a beetle | insect/arachnid | six/eight
a butterfly | insect/bird | six/four
a mosquito | insect/arachnid | six/eight
"""

# name | chemical symbol
ELEMENTS = """
gold | Au/Go
iron | Fe/Ir
silver | Ag/Si
sodium | Na/So
potassium | K/P
tin | Sn/Ti
lead | Pb/Le
copper | Cu/Co
mercury | Hg/Me
tungsten | W/Tu
antimony | Sb/An
magnesium | Mg/Ma
manganese | Mn/Mg
carbon | C/Ca
calcium | Ca/Cl
cobalt | Co/Cb
zinc | Zn/Zi
arsenic | As/Ar
argon | Ar/Ag
boron | B/Bo
helium | He/H
fluorine | F/Fl
phosphorus | P/Ph
nitrogen | N/Ni
silicon | Si/S
platinum | Pt/Pl
radon | Rn/Ra
krypton | Kr/K
"""

# thing | colour
COLOURS = """
a flight recorder | orange/black
the Sun seen from space | white/yellow
the skin of a polar bear | black/white
the blood of an octopus | blue/red
the blood in human veins | red/blue
a flamingo chick | grey/pink
the milk of a hippo | white/pink
the Golden Gate Bridge | orange/red
a saffron thread | red/yellow
a raw coffee bean | green/brown
a sunset on Mars | blue/red
liquid oxygen | blue/white
the skin of a zebra | black/white
an arctic fox in summer | brown/white
the dust on the Moon | grey/white
an emerald | green/blue
a ruby | red/purple
an amethyst | purple/blue
malachite | green/blue
pure sulfur | yellow/green
cinnabar | red/brown
"""

# invention, discovery or book | who it is owed to
INVENTORS = """
the telephone | Bell/Edison
the phonograph | Edison/Bell
the first telescope | Lippershey/Galileo
the first petrol car | Benz/Ford
the atmospheric engine | Newcomen/Watt
the first flush toilet | Harington/Crapper
the smallpox vaccine | Jenner/Pasteur
the rabies vaccine | Pasteur/Jenner
the discovery of penicillin | Fleming/Pasteur
dynamite | Nobel/Einstein
the discovery of radium | Curie/Roentgen
the theory of relativity | Einstein/Newton
the book Principia | Newton/Galileo
the laws of planetary motion | Kepler/Galileo
the laws of heredity | Mendel/Darwin
the periodic table | Mendeleev/Curie
the first electric battery | Volta/Edison
the lightning rod | Franklin/Edison
the mercury thermometer | Fahrenheit/Celsius
the mercury barometer | Torricelli/Celsius
the analytical engine | Babbage/Turing
vulcanized rubber | Goodyear/Ford
the novel Dracula | Stoker/Shelley
the novel Frankenstein | Shelley/Stoker
the pendulum clock | Huygens/Galileo
the discovery of radio waves | Hertz/Marconi
the discovery of the electron | Thomson/Rutherford
the discovery of the neutron | Chadwick/Rutherford
"""

# claim | is it true
MYTHS = """
goldfish forget after three seconds | No/Yes
the Moon has a view of the Great Wall | No/Yes
bulls hate the colour red | No/Yes
lightning never strikes twice | No/Yes
bats are blind | No/Yes
we use a tenth of the brain | No/Yes
Vikings wore horned helmets | No/Yes
ostriches hide their heads in sand | No/Yes
toads give you warts | No/Yes
cracking knuckles causes arthritis | No/Yes
shaving makes hair grow thicker | No/Yes
Einstein failed at mathematics | No/Yes
camels store water in their humps | No/Yes
dogs see only black and white | No/Yes
bananas are berries | Yes/No
tomatoes are fruits | Yes/No
sharks are older than trees | Yes/No
octopuses have three hearts | Yes/No
Venus is hotter than Mercury | Yes/No
sloths can swim | Yes/No
elephants can swim | Yes/No
Antarctica is a desert | Yes/No
peanuts are legumes | Yes/No
female reindeer grow antlers | Yes/No
wombats drop cubes | Yes/No
watermelons are berries | Yes/No
Oxford is older than the Aztec empire | Yes/No
"""
