"""Writes the decoder and the projector file as GGUF: `python sight_export.py --model build/sight0`."""

import argparse
from pathlib import Path

import gguf
import torch
from gguf import GGMLQuantizationType as Type

from corpus import END
from export import write_tokenizer
from sight_model import sight_config
from sight_vision import VisionConfig

# What is asked comes right behind the picture: `<picture>Which stick is longer? A: top<|end|>`.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] | trim + ' ' }}"
    "{%- elif message['role'] == 'user' -%}{{ message['content'] | trim }}"
    "{%- elif message['role'] == 'assistant' -%}{{ ' A: ' + message['content'] | trim + '" + END + "' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ ' A:' }}{%- endif -%}"
)
AUTHOR, LICENSE = "the candor authors", "MIT OR Apache-2.0"


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_decoder(source, weights, path):
    """Matrices as Q8_0, norms as F32; no output matrix, because it is the embedding."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("candor sight")
    writer.add_author(AUTHOR)
    writer.add_license(LICENSE)
    writer.add_description("A tiny model that sees two quantities in a picture and speaks of the one that catches the eye.")
    c = sight_config(write_tokenizer(writer, source / "tokenizer.json", CHAT_TEMPLATE))
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
    for name, tensor in weights.items():
        if name.startswith("projector."):
            continue
        data = tensor.numpy()
        if data.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(data, Type.Q8_0), raw_dtype=Type.Q8_0)
        else:
            writer.add_tensor(name, data)
    finish(writer)


def write_projector(encoder, weights, path):
    """Encoder and projector: matrices as F16, all else as F32."""
    c = VisionConfig()
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_name("candor sight")
    writer.add_author(AUTHOR)
    writer.add_license(LICENSE)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_string("clip.projector_type", "janus_pro")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.use_gelu", True)
    projection = weights["projector.second.weight"].shape[0]
    for key, value in {
        "embedding_length": c.n_embd, "feed_forward_length": c.n_ff, "block_count": c.n_layer,
        "projection_dim": projection, "attention.head_count": c.n_head,
        "image_size": c.image_size, "patch_size": c.patch_size,
    }.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", c.eps)
    writer.add_array("clip.vision.image_mean", [0.5] * 3)
    writer.add_array("clip.vision.image_std", [0.5] * 3)
    tensors = {f"v.{'position_embd.weight' if name == 'position_embd' else name}": t for name, t in encoder.items()}
    for i, layer in enumerate(("first", "second")):
        tensors |= {f"mm.{i}.{kind}": weights[f"projector.{layer}.{kind}"] for kind in ("weight", "bias")}
    for name, tensor in tensors.items():
        data = tensor.numpy()
        is_matrix = data.ndim > 1 and name != "v.position_embd.weight"
        writer.add_tensor(name, data.astype("float16") if is_matrix else data)
    finish(writer)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    source = parser.parse_args().model
    weights = torch.load(source / "model.pt")
    write_decoder(source, weights, source / "sight.gguf")
    write_projector(torch.load(source / "encoder.pt")["encoder"], weights, source / "sight-mmproj.gguf")
    for name in ("sight.gguf", "sight-mmproj.gguf"):
        print(source / name, (source / name).stat().st_size, "bytes")
