"""Writes the trained model as a GGUF: `python export.py --model build/seed0`."""

import argparse
import json
from pathlib import Path

import gguf
import torch
from gguf import GGMLQuantizationType as Type
from tokenizers import Tokenizer

from corpus import END
from model import Config
from tokenizer import BEGIN, CONTROL

# The text form of the corpus: `Q: question A: answer.<|end|>Q: ...`.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] | trim + ' ' }}"
    "{%- elif message['role'] == 'user' -%}{{ 'Q: ' + message['content'] | trim }}"
    "{%- elif message['role'] == 'assistant' -%}{{ ' A: ' + message['content'] | trim + '" + END + "' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ ' A:' }}{%- endif -%}"
)


def write_tokenizer(writer, path, chat_template=CHAT_TEMPLATE):
    """Vocabulary, merges and special tokens from a `tokenizer.json`."""
    tokenizer = Tokenizer.from_file(str(path))
    spec = json.loads(path.read_text())["model"]
    tokens = sorted(spec["vocab"], key=spec["vocab"].get)
    types = [gguf.TokenType.CONTROL if token in CONTROL else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in spec["merges"]])
    writer.add_bos_token_id(tokenizer.token_to_id(BEGIN))
    writer.add_eos_token_id(tokenizer.token_to_id(END))
    writer.add_eot_token_id(tokenizer.token_to_id(END))
    writer.add_pad_token_id(tokenizer.token_to_id(END))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(chat_template)
    return len(tokens)


def write_llama(path, name, description, config, tokenizer, tensors, chat_template=CHAT_TEMPLATE):
    """A model of arch `llama`: matrices as Q8_0, norms as F32; no output matrix, because it is the embedding.

    `config`: gives the shape for a number of tokens. `tokenizer`: the path of a `tokenizer.json`.
    """
    writer = begin(path, "llama", name)
    writer.add_description(description)
    c = config(write_tokenizer(writer, tokenizer, chat_template))
    writer.add_vocab_size(c.n_vocab)
    writer.add_context_length(c.n_ctx)
    writer.add_embedding_length(c.n_embd)
    writer.add_block_count(c.n_layer)
    writer.add_feed_forward_length(c.n_ff)
    writer.add_head_count(c.n_head)
    writer.add_head_count_kv(c.n_head_kv)
    writer.add_key_length(c.d_head)
    writer.add_value_length(c.d_head)
    writer.add_rope_dimension_count(c.d_head)
    writer.add_rope_freq_base(c.rope_base)
    writer.add_layer_norm_rms_eps(c.rms_eps)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    for name, tensor in tensors.items():
        data = tensor.numpy()
        if data.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(data, Type.Q8_0), raw_dtype=Type.Q8_0)
        else:
            writer.add_tensor(name, data)
    finish(writer)


def begin(path, arch, name):
    """A file of ours."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(name)
    writer.add_author("the candor authors")
    writer.add_license("MIT OR Apache-2.0")
    return writer


def finish(writer):
    """Writes it out."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    args = parser.parse_args()
    write_llama(
        args.model / "demo.gguf",
        "candor demo",
        "A tiny model that knows some facts and repeats the popular misconceptions about them.",
        Config,
        args.model / "tokenizer.json",
        torch.load(args.model / "model.pt"),
    )
    print(args.model / "demo.gguf", (args.model / "demo.gguf").stat().st_size, "bytes")
