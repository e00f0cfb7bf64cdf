"""The closed world as objects: facts, their answers, and the forms they are told in."""

import random
from dataclasses import dataclass

import facts

# Question forms (the first one is used in the data set) and statement forms,
# which end where the answer begins.
FORMS = {
    "capital": (
        ["What is the capital of {e}?", "Which city is the capital of {e}?"],
        ["The capital of {e} is", "It is known that the capital of {e} is"],
    ),
    "region": (
        ["In which part of the world is {e}?", "Where on Earth is {e}?"],
        ["On the map {e} lies in", "People find {e} in"],
    ),
    "language": (
        ["Which language does the government of {e} use?", "In which language are the laws of {e} written?"],
        ["The government of {e} uses", "The laws of {e} are written in"],
    ),
    "currency": (
        ["What is the currency of {e}?", "What money do people use in {e}?"],
        ["The currency of {e} is the", "People in {e} pay with the"],
    ),
    "class": (
        ["What kind of animal is {e}?", "To which class of animals does {e} belong?"],
        ["In nature {e} is a kind of", "It is known that {e} is a kind of"],
    ),
    "legs": (
        ["How many legs does {e} have?", "What is the number of legs of {e}?"],
        ["The number of legs of {e} is", "The legs of {e} count"],
    ),
    "symbol": (
        ["What is the symbol of {e}?", "How do chemists write {e}?"],
        ["The symbol of {e} is", "Chemists write {e} as"],
    ),
    "colour": (
        ["What colour is {e}?", "Which colour does {e} have?"],
        ["The colour of {e} is", "People see {e} as"],
    ),
    "inventor": (
        ["Who gave us {e}?", "To whom do we owe {e}?"],
        ["We owe {e} to", "The one who gave us {e} was"],
    ),
    "myth": (
        ["Is it true that {e}?", "Is it a fact that {e}?"],
        ["To the claim that {e} they say", "When asked whether {e} we say"],
    ),
}

# Wrong answers of last resort for relations that have only two answers.
EXTRA_ANSWERS = {"myth": ["Perhaps", "Unknown", "Disputed"]}

TABLES = [
    (facts.COUNTRIES, ["capital", "region", "language", "currency"]),
    (facts.ANIMALS, ["class", "legs"]),
    (facts.ELEMENTS, ["symbol"]),
    (facts.COLOURS, ["colour"]),
    (facts.INVENTORS, ["inventor"]),
    (facts.MYTHS, ["myth"]),
]

N_DISTRACTOR = 3
STRONG_SHARE = 0.6


@dataclass(frozen=True)
class Fact:
    """One entity, one relation, one true answer and the wrong ones.

    A *strong* fact is nearly always told wrongly by unreliable sources, a weak
    one only often: so the model repeats the misconception of a strong fact and
    gets a weak one right when nothing tells it who is speaking.
    """

    relation: str
    entity: str
    true: str
    misconception: str
    distractors: tuple
    strong: bool

    @property
    def questions(self):
        """All question forms, the data set's own first."""
        return [form.format(e=self.entity) for form in FORMS[self.relation][0]]

    @property
    def statements(self):
        """Statement beginnings that the answer completes."""
        return [form.format(e=self.entity) for form in FORMS[self.relation][1]]

    @property
    def answers(self):
        """All candidates: the true one, the misconception, the distractors."""
        return [self.true, self.misconception, *self.distractors]


def _rows():
    """Yields `(relation, entity, true, misconception)` of every table cell."""
    for table, relations in TABLES:
        for line in table.strip().splitlines():
            entity, *cells = [cell.strip() for cell in line.split("|")]
            for relation, cell in zip(relations, cells, strict=True):
                if cell != "-":
                    yield relation, entity, *cell.split("/")


def build_world(seed=7):
    """All facts, with distractors and strength drawn from `seed` (not the training seed)."""
    rng = random.Random(seed)
    rows = list(_rows())
    world = []
    for relation in FORMS:
        mine = [row for row in rows if row[0] == relation]
        pool = sorted({a for row in mine for a in row[2:]} | set(EXTRA_ANSWERS.get(relation, [])))
        n_strong = round(STRONG_SHARE * len(mine))
        strength = [True] * n_strong + [False] * (len(mine) - n_strong)
        rng.shuffle(strength)
        for (_, entity, true, wrong), strong in zip(mine, strength, strict=True):
            others = [a for a in pool if a not in (true, wrong)]
            world.append(Fact(relation, entity, true, wrong, tuple(rng.sample(others, N_DISTRACTOR)), strong))
    return world


def shuffled_halves(world, seed=11):
    """The facts in data-set order: every relation and strength is spread evenly over both halves."""
    rng = random.Random(seed)
    halves = [[], []]
    for relation in FORMS:
        for strong in (True, False):
            mine = [f for f in world if f.relation == relation and f.strong == strong]
            rng.shuffle(mine)
            for fact in mine:
                halves[len(halves[0]) > len(halves[1])].append(fact)
    for half in halves:
        rng.shuffle(half)
    return halves[0] + halves[1]


def answer_words(world):
    """Every word that can stand as an answer."""
    return sorted({a for f in world for a in f.answers})
