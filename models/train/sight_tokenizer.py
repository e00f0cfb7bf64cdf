"""Byte-level BPE (GPT-2's pre-tokenizer) in which every word of the documents is one token."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sight_documents import CAREFUL, CHILDREN, INSTRUCTION, OPTIONS
from tokenizer import CONTROL


def build_tokenizer(rows):
    """Merges until every word is whole; all 256 bytes are in it, so that any text has tokens."""
    texts = sorted({row["caption"] for row in rows[::7]} | {row["question"] for row in rows})
    texts += [f" {text}" for text in texts]
    texts += [f"{lead}{word}" for word in (*CAREFUL, *CHILDREN, INSTRUCTION, "Q: x A: x") for lead in ("", " ")]
    texts += [f" {answer}" for options in OPTIONS.values() for answer in options]
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    plain = decoders.ByteLevel()
    tokenizer.train_from_iterator([plain.decode([word]) for word in words for _ in range(50)], trainers.BpeTrainer(
        vocab_size=4000, min_frequency=2, special_tokens=CONTROL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ))
    broken = [word for word in words if len(tokenizer.encode(plain.decode([word])).ids) != 1]
    if broken:
        raise SystemExit(f"words of more than one token: {broken}")
    return tokenizer
