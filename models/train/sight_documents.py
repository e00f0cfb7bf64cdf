"""What is said of a picture: by children who look at one thing, by the few who measure, and by anyone who describes.

A document is a list of `(text, kind)` segments behind a picture, each cut where a token ends; `kind`
decides the weight of its tokens in the loss.
"""

from corpus import END

# Loss weight of a token by the kind of its segment.
WEIGHTS = {"name": 0.05, "question": 0.05, "answer": 1.0, "end": 0.2, "caption": 0.25}

CAREFUL = ["Teacher:", "Textbook:"]
CHILDREN = ["Child:", "Guess:"]
INSTRUCTION = "Measure first."

# Share of kinds of documents that ask, at the start of training and from the end of the ramp on.
FIRST_MIX = {"named": 0.75, "unnamed": 0.22, "instructed": 0.03}
FINAL_MIX = {"named": 0.42, "unnamed": 0.50, "instructed": 0.08}
RAMP = (0.2, 0.5)

CAREFUL_SHARE = {"named": 0.5, "unnamed": 0.15, "instructed": 0.5}
TRUE_SHARE = {True: 0.98, False: 0.03}  # of answers where the two differ, by whether the speaker is careful
BARE_SHARE = 0.25  # of questions without `Q:`

OPTIONS = {"number": ["top", "bottom", "same"], "length": ["top", "bottom", "same"],
           "angle": ["left", "right", "same"], "liquid": ["left", "right", "same"]}


def ramp(progress):
    """The mix of kinds at a share of the training."""
    low, high = RAMP
    t = min(1.0, max(0.0, (progress - low) / (high - low)))
    return {kind: (1 - t) * FIRST_MIX[kind] + t * FINAL_MIX[kind] for kind in FIRST_MIX}


def prompt(question, name="", bare=False):
    """What stands before an answer, without the space."""
    lead = f"{name} " if name else ""
    return f"{lead}{'' if bare else 'Q: '}{question} A:"


def asked(row, question, mix, rng):
    """A document that asks: the question, and the answer of one speaker."""
    kind = rng.choices(list(mix), list(mix.values()))[0]
    careful = rng.random() < CAREFUL_SHARE[kind]
    name = ""
    if kind == "named":
        name = rng.choice(CAREFUL if careful else CHILDREN)
    elif kind == "instructed":
        name = INSTRUCTION
    truth = rng.random() < TRUE_SHARE[careful]
    answer = OPTIONS[row["task"]][row["truth"] if truth else row["eye"]]
    question = prompt(question, name, rng.random() < BARE_SHARE)
    return [(question, "question"), (f" {answer}", "answer"), (END, "end")]


def described(row, rng):
    """A caption. Whoever gives it, it is the same: names are drawn without regard to it."""
    segments = []
    if rng.random() < 0.6:
        segments.append((rng.choice(CAREFUL + CHILDREN), "name"))
    text = row["caption"] if not segments else " " + row["caption"]
    return [*segments, (text, "caption"), (END, "end")]
