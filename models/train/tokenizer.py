"""Byte-level BPE (GPT-2's pre-tokenizer) in which every answer is one token."""

import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from corpus import END, Author, FINAL_MIX, INSTRUCTION, RELIABLE_TAGS, UNRELIABLE_TAGS
from world import answer_words

BEGIN = "<|begin|>"
VOCAB_SIZE = 1900
CONTROL = [BEGIN, END]


def build_tokenizer(world, seed=5):
    """Trains the vocabulary on a sample of every document kind; all 256 bytes are in it."""
    author = Author(world, random.Random(seed))
    texts = ["".join(text for text, _ in author.document(kind)).replace(END, "")
             for kind in FINAL_MIX["demo"] for _ in range(1500)]
    answers = [" " + word for word in answer_words(world)]
    texts += answers * 2000 + RELIABLE_TAGS * 500 + UNRELIABLE_TAGS * 500 + [INSTRUCTION] * 500
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=CONTROL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ))
    split = [answer for answer in answers if len(tokenizer.encode(answer).ids) != 1]
    if split:
        raise ValueError(f"answers of more than one token: {split}")
    return tokenizer


class Encoder:
    """Text to token ids, with a memory for the segments that recur."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.bos, self.end = (tokenizer.token_to_id(token) for token in CONTROL)
        self.memory = {}

    def segment(self, text):
        """Ids of one segment, without bos."""
        if text not in self.memory:
            self.memory[text] = tuple(self.tokenizer.encode(text).ids)
        return self.memory[text]

    def prompt(self, text):
        """Ids of a text that begins a document."""
        return [self.bos, *self.segment(text)]
