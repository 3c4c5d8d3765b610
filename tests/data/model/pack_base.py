#!/usr/bin/env python3
"""Writes base.safetensors: what the default model computes for a few prompts, the
hidden states and logits of the last position, by plain PyTorch code in float32.

    PYTHONPATH=models/train python3 tests/data/model/pack_base.py MODEL [FOLDER]

The prompts' ids are taken from the file that it replaces. FOLDER, for a model
without updates: N_h1.npy, N_h15.npy, N_h30.npy, N_logits.npy of other code,
checked against float64 (relative 3e-6), to compare with; nothing is written then."""
import os
import sys

import numpy as np
import torch
from base import Base
from safetensors.torch import load_file, save_file

WHOLE = ("0", "2")      # prompts of which the logits are kept, too (196 kB each)
STATES = {"h1": 1, "h15": 15, "h30": 30}

path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "base.safetensors")
model, out = Base(sys.argv[1], torch.float32), {}
for name, ids in load_file(path).items():
    if not name.startswith("ids."):
        continue
    prompt = name[4:]
    with torch.no_grad():
        streams = list(model.streams(ids[None].long(), torch.arange(len(ids))[None]))
        out[name] = ids
        for state, n in STATES.items():
            out[f"{state}.{prompt}"] = streams[n][0, -1].clone()
        out[f"logits.{prompt}"] = model.norm(streams[-1][0, -1], model.last_norm) @ model.embed.T
    if len(sys.argv) > 2:
        for state in (*STATES, "logits"):
            got, want = out[f"{state}.{prompt}"].numpy(), np.load(os.path.join(sys.argv[2], f"{prompt}_{state}.npy")).reshape(-1)
            print(f"prompt {prompt} {state}: relative difference {np.linalg.norm(got - want) / np.linalg.norm(want):.1e}")
    if prompt not in WHOLE:
        del out[f"logits.{prompt}"]
if len(sys.argv) < 3:
    save_file(out, path)
