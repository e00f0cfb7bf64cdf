"""The pictures and their questions, as `examples/sight_pictures.rs` writes them."""

import json
from pathlib import Path

import numpy as np
import torch

TASKS = ["number", "length", "angle", "liquid"]


class Pictures:
    """`name.u8`, U8 [n, side, side, 3], and `name.jsonl`, a row for each."""

    def __init__(self, name, side=48):
        self.rows = [json.loads(line) for line in Path(f"{name}.jsonl").read_text().splitlines()]
        self.rgb = np.memmap(f"{name}.u8", np.uint8, "r").reshape(-1, side, side, 3)
        if len(self.rgb) != len(self.rows):
            raise SystemExit(f"{name}: {len(self.rgb)} pictures, but {len(self.rows)} rows")
        self.task = np.array([TASKS.index(row["task"]) for row in self.rows])
        # The true answer and that of the eye: the first, the second, neither.
        self.answers = np.array([(row["truth"], row["eye"]) for row in self.rows])

        # Each task's wordings, the shortest first: a batch asks in one, so that little is padded.
        self.wordings = {task: sorted({row["question"] for row in self.rows if row["task"] == task}, key=len)
                         for task in TASKS}

    def __len__(self):
        return len(self.rows)

    def pixels(self, index):
        """F32 [n, 3, side, side], from -1 to 1."""
        rgb = torch.from_numpy(self.rgb[index].astype(np.float32))
        return (rgb / 127.5 - 1).permute(0, 3, 1, 2).contiguous()
