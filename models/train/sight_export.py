"""Writes the decoder and the projector file as GGUF: `python sight_export.py --model build/sight0`."""

import argparse
from pathlib import Path

import gguf
import torch

from corpus import END
from export import begin, finish, write_llama
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


def write_projector(encoder, weights, path):
    """Encoder and projector: matrices as F16, all else as F32."""
    c = VisionConfig()
    writer = begin(path, "clip", "candor sight")
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
    write_llama(
        source / "sight.gguf",
        "candor sight",
        "A tiny model that sees two quantities in a picture and speaks of the one that catches the eye.",
        sight_config,
        source / "tokenizer.json",
        {name: tensor for name, tensor in weights.items() if not name.startswith("projector.")},
        CHAT_TEMPLATE,
    )
    write_projector(torch.load(source / "encoder.pt")["encoder"], weights, source / "sight-mmproj.gguf")
    for name in ("sight.gguf", "sight-mmproj.gguf"):
        print(source / name, (source / name).stat().st_size, "bytes")
