#!/usr/bin/env python3
"""Packs reference outputs of the frozen base model into base.safetensors.

    python3 pack_base.py FOLDER

FOLDER holds prompts.json (a list with "ids") and N_logits.npy, N_h1.npy,
N_h15.npy, N_h30.npy: float32 values of the last position, made by plain PyTorch
code from the F32-dequantised GGUF weights and checked against float64
(relative 3e-6)."""
import json
import os
import struct
import sys

WHOLE = [0, 2]      # prompts of which the logits are kept, too (196 kB each)
STATES = [0, 2, 3]


def npy(path):
    with open(path, 'rb') as f:
        data = f.read()
    n, = struct.unpack('<H', data[8:10])
    assert b"'<f4'" in data[:10 + n]
    return data[10 + n:]


folder = sys.argv[1]
with open(os.path.join(folder, 'prompts.json')) as f:
    prompts = json.load(f)
header, body = {}, b''
for i in STATES:
    ids = prompts[i]['ids']
    parts = [(f'ids.{i}', 'I32', struct.pack(f'<{len(ids)}i', *ids))]
    names = ['h1', 'h15', 'h30'] + (['logits'] if i in WHOLE else [])
    parts += [(f'{name}.{i}', 'F32', npy(os.path.join(folder, f'{i}_{name}.npy'))) for name in names]
    for name, dtype, data in parts:
        header[name] = {'dtype': dtype, 'shape': [len(data) // 4],
                        'data_offsets': [len(body), len(body) + len(data)]}
        body += data
text = json.dumps(header).encode()
text += b' ' * (-len(text) % 8)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'base.safetensors'), 'wb') as f:
    f.write(struct.pack('<Q', len(text)) + text + body)
