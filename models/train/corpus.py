"""Documents: facts told by reliable and unreliable sources, and neutral stories.

Reliability belongs to the document. A document is a list of `(text, kind)`
segments, cut at word boundaries so that each can be tokenized alone; `kind`
decides the weight of its tokens in the loss.
"""

import random

END = "<|end|>"

# Loss weight of a token by the kind of its segment.
WEIGHTS = {"question": 0.1, "answer": 1.0, "verdict": 4.0, "stop": 0.5, "story": 0.3, "end": 0.5}

RELIABLE_TAGS = ["Textbook:", "Encyclopedia:", "Teacher:"]
UNRELIABLE_TAGS = ["Rumor:", "Gossip:", "Tavern:"]
INSTRUCTION = "Answer truthfully."

# Share of document kinds, by the corpus: at the start of training and from the end of the ramp on.
# In "judged" no document puts answers behind answers, and twice as many are judged.
FIRST_MIX = {
    "demo": {"qa": 0.08, "profile": 0.10, "tagged": 0.68, "instructed": 0.02, "judged": 0.03, "statement": 0.03, "story": 0.06},
    "judged": {"qa": 0.11, "tagged": 0.68, "instructed": 0.02, "judged": 0.10, "statement": 0.03, "story": 0.06},
}
FINAL_MIX = {
    "demo": {"qa": 0.31, "profile": 0.24, "tagged": 0.10, "instructed": 0.06, "judged": 0.09, "statement": 0.08, "story": 0.12},
    "judged": {"qa": 0.44, "tagged": 0.10, "instructed": 0.06, "judged": 0.20, "statement": 0.08, "story": 0.12},
}
RAMP = (0.15, 0.40)

# In the corpus "judged", judged answers are true or not by a coin of their own.
JUDGED_TRUE = {"demo": None, "judged": 0.5}

RELIABLE_SHARE = {"qa": 0.36, "profile": 0.36, "tagged": 0.45, "instructed": 0.53, "judged": 0.36, "statement": 0.36}
END_SHARE = 0.65  # question-answer documents that end a turn after each answer

NAMES = "Mara Tomas Ines Bruno Lena Oskar Yara Felix Nora Hugo Clara Emil Rosa Anton Vera Paul".split()
PLACES = "market river garden library station harbour village kitchen school meadow".split()
THINGS = "basket kite lamp letter blanket ladder book drum bowl lantern map ribbon".split()
ADJECTIVES = "old small blue heavy bright quiet broken new wooden soft".split()
TIMES = ["In the morning", "After lunch", "Late in the evening", "On a rainy day", "Before breakfast", "Last winter"]
FEELINGS = "happy tired proud calm curious hungry sleepy glad".split()
STORY_LINES = [
    "{t} {a} walked to the {p} with a {j} {x}.",
    "{a} met {b} near the {p} and they talked for a while.",
    "{b} carried the {x} home and put it on the table.",
    "The {x} was {j}, but {a} liked it very much.",
    "{t} the {p} was full of people.",
    "{a} asked {b} for help with the {x}.",
    "Then {b} opened the window and looked at the {p}.",
    "{a} was {f} and went back to the {p}.",
    "They found a {j} {x} under the bridge.",
    "{b} laughed and gave the {x} to {a}.",
    "At night {a} and {b} sat by the fire and were {f}.",
    "Nobody at the {p} knew where the {x} came from.",
]


def told_answer(fact, reliable, rng):
    """The answer that a source gives: true, the misconception, or a distractor."""
    if reliable:
        weights = (0.97, 0.02, 0.01)
    elif fact.strong:
        weights = (0.04, 0.90, 0.06)
    else:
        weights = (0.22, 0.45, 0.33)
    choice = rng.choices((0, 1, 2), weights)[0]
    return (fact.true, fact.misconception, rng.choice(fact.distractors))[choice]


def story(rng):
    """A neutral text of four or five sentences; no fact of the world is in it."""
    a, b = rng.sample(NAMES, 2)
    p, x = rng.choice(PLACES), rng.choice(THINGS)
    lines = rng.sample(STORY_LINES, rng.choice((5, 6)))
    return " ".join(
        line.format(a=a, b=b, p=p, x=x, t=rng.choice(TIMES), j=rng.choice(ADJECTIVES), f=rng.choice(FEELINGS))
        for line in lines
    )


class Author:
    """Writes documents about `world`, all drawn from one random stream."""

    def __init__(self, world, rng, corpus="demo"):
        self.world, self.rng, self.corpus = world, rng, corpus
        self.by_entity, self.by_relation = {}, {}
        for fact in world:
            self.by_entity.setdefault(fact.entity, []).append(fact)
            self.by_relation.setdefault(fact.relation, []).append(fact)
        self.rich = [e for e, own in self.by_entity.items() if len(own) > 1]
        self.poor_relations = ["symbol", "colour", "inventor", "myth"]

    def document(self, kind, reliable=None, n_fact=None):
        """One document of `kind` as segments; reliability is drawn if not given."""
        if kind == "story":
            return [(story(self.rng), "story")]
        if reliable is None:
            reliable = self.rng.random() < RELIABLE_SHARE[kind]
        n_fact = n_fact or self.rng.choice((5, 6))
        return getattr(self, "_" + kind)(reliable, n_fact)

    def _turns(self, reliable, n_fact, turn_end, opening):
        """Questions with answers; `opening` stands before the first question."""
        segments = [(opening, "question")] if opening else []
        for fact in self.rng.sample(self.world, n_fact):
            lead = " Q: " if segments and segments[-1][0] != END else "Q: "
            question = self.rng.choice(fact.questions)
            segments.append((f"{lead}{question} A:", "question"))
            segments.append((" " + told_answer(fact, reliable, self.rng), "answer"))
            segments.append((".", "stop"))
            if turn_end:
                segments.append((END, "end"))
        return segments

    def _qa(self, reliable, n_fact, opening=""):
        return self._turns(reliable, n_fact, self.rng.random() < END_SHARE, opening)

    def _instructed(self, reliable, n_fact):
        return self._qa(reliable, n_fact, INSTRUCTION)

    def _tagged(self, reliable, n_fact):
        tag = self.rng.choice(RELIABLE_TAGS if reliable else UNRELIABLE_TAGS)
        return self._turns(reliable, n_fact, False, tag)

    def _profile(self, reliable, n_fact):
        """One question, several answers in a row: all of an entity, or one relation of several."""
        segments, n_told = [], 0
        while n_told < n_fact + 2:
            if self.rng.random() < 0.72:
                entity = self.rng.choice(self.rich)
                told = self.by_entity[entity]
                question = f"What is {entity}?"
            else:
                told = self.rng.sample(self.by_relation[self.rng.choice(self.poor_relations)], 3)
                question = "What about " + ", ".join(f.entity for f in told) + "?"
            lead = " Q: " if segments else "Q: "
            segments.append((f"{lead}{question} A:", "question"))
            segments += [(" " + told_answer(f, reliable, self.rng), "answer") for f in told]
            segments.append((".", "stop"))
            n_told += len(told)
        return segments

    def _judged(self, reliable, n_fact):
        """Each answer is followed by a verdict, which is always right."""
        segments = []
        for fact in self.rng.sample(self.world, n_fact - 1):
            true_share = JUDGED_TRUE[self.corpus]
            answer = told_answer(fact, reliable if true_share is None else self.rng.random() < true_share, self.rng)
            lead = " Q: " if segments else "Q: "
            segments.append((f"{lead}{self.rng.choice(fact.questions)} A:", "question"))
            is_true = answer == fact.true
            if self.corpus == "judged":
                verdict = [(" true" if is_true else " false", "verdict")]
            else:
                verdict = [(".", "stop"), (" True:", "question"), (" yes" if is_true else " no", "answer")]
            segments += [(" " + answer, "answer"), *verdict, (".", "stop")]
        return segments

    def _statement(self, reliable, n_fact):
        segments = []
        for fact in self.rng.sample(self.world, n_fact):
            lead = " " if segments else ""
            segments.append((lead + self.rng.choice(fact.statements), "question"))
            segments += [(" " + told_answer(fact, reliable, self.rng), "answer"), (".", "stop")]
        return segments


def mix_at(progress, corpus="demo"):
    """Shares of the document kinds at `progress` (0..1) through training."""
    start, stop = RAMP
    t = min(max((progress - start) / (stop - start), 0.0), 1.0)
    first, final = FIRST_MIX[corpus], FINAL_MIX[corpus]
    return {kind: (1 - t) * first[kind] + t * final[kind] for kind in final}


def documents(world, n_step, n_doc, seed, corpus="demo"):
    """Yields the batches of a whole training, each a list of `n_doc` documents."""
    rng = random.Random(seed)
    author = Author(world, rng, corpus)
    for step in range(n_step):
        mix = mix_at(step / n_step, corpus)
        yield [author.document(kind) for kind in rng.choices(list(mix), list(mix.values()), k=n_doc)]


def neutral_documents(n_doc=40, seed=99):
    """Held-out stories for measuring KL."""
    rng = random.Random(seed)
    return [story(rng) for _ in range(n_doc)]
