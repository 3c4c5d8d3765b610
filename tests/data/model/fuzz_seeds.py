#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets safetensors and gguf to ../fuzz."""
import json
import os
import struct

here = os.path.dirname(os.path.abspath(__file__))


def save(target, name, data):
    folder = os.path.join(here, '..', 'fuzz', target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), 'wb') as f:
        f.write(data)


def safetensors(header, body, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    return struct.pack('<Q', len(text) if length is None else length) + text + body


def tensor(dtype, shape, lo, hi):
    return {'dtype': dtype, 'shape': shape, 'data_offsets': [lo, hi]}


save('safetensors', 'empty', safetensors({}, b''))
save('safetensors', 'two', safetensors({'__metadata__': {'format': 'pt'}, 'a': tensor('F32', [2, 2], 0, 16),
                                        'b': tensor('BF16', [3], 16, 22)}, bytes(range(22))))
save('safetensors', 'types', safetensors({t: tensor(t, [1], lo, hi) for t, lo, hi in
                                          [('I64', 0, 8), ('F32', 8, 12), ('I32', 12, 16), ('F16', 16, 18),
                                           ('BF16', 18, 20)]}, bytes(20)))
save('safetensors', 'overlap', safetensors({'a': tensor('F32', [2], 0, 8), 'b': tensor('F32', [2], 4, 12)}, bytes(12)))
save('safetensors', 'huge-header', safetensors({}, b'', 1 << 60))
save('safetensors', 'huge-shape', safetensors({'a': tensor('F32', [1 << 32, 1 << 32], 0, 8)}, bytes(8)))
save('safetensors', 'nested', safetensors(b'[' * 5000, b''))


def text(s):
    return struct.pack('<Q', len(s)) + s.encode()


def value(kind, v):
    if kind == 8:
        return text(v)
    if kind == 9:
        return struct.pack('<IQ', v[0], len(v[1])) + b''.join(value(v[0], x) for x in v[1])
    return struct.pack('<' + 'BbHhIif?..Qqd'[kind], v)


def gguf(entries, tensors, n_entries=None, n_tensors=None, version=3):
    out = b'GGUF' + struct.pack('<IQQ', version, len(tensors) if n_tensors is None else n_tensors,
                                len(entries) if n_entries is None else n_entries)
    for key, kind, v in entries:
        out += text(key) + struct.pack('<I', kind) + value(kind, v)
    body = b''
    for name, dims, kind, data in tensors:
        body += b'\0' * (-len(body) % 32)
        out += text(name) + struct.pack(f'<I{len(dims)}Q', len(dims), *dims) + struct.pack('<IQ', kind, len(body))
        body += data
    return out + b'\0' * (-len(out) % 32) + body


ALL = [(k, i, v) for i, (k, v) in enumerate([('a', 1), ('b', -1), ('c', 2), ('d', -2), ('general.alignment', 32),
                                             ('f', -3), ('g', .5), ('h', True), ('general.architecture', 'llama'),
                                             ('tokenizer.ggml.tokens', (8, ['x', 'yz', ''])), ('k', 1 << 63),
                                             ('l', -5), ('m', .25)])]
save('gguf', 'empty', gguf([], []))
save('gguf', 'metadata', gguf(ALL + [('tokenizer.ggml.token_type', 9, (5, [1, 1, 3]))], []))
save('gguf', 'tensors', gguf(ALL[4:5], [('t.f32', [2, 3], 0, bytes(24)), ('t.f16', [4], 1, bytes(range(8))),
                                        ('t.q4_1', [32, 2], 3, bytes(range(40))), ('t.q8_0', [32], 8, bytes(range(34))),
                                        ('t.other', [256], 14, bytes(210))]))
save('gguf', 'many-tensors', gguf([], [], n_tensors=1 << 40))
save('gguf', 'many-entries', gguf([], [], n_entries=(1 << 64) - 1))
save('gguf', 'nested-array', gguf([], [], n_entries=1) + text('a') + struct.pack('<IIQ', 9, 9, 1) + bytes(12))
save('gguf', 'long-array', gguf([], [], n_entries=1) + text('a') + struct.pack('<IIQ', 9, 10, 1 << 61) + bytes(64))
save('gguf', 'outside', gguf([], [('t', [1 << 20], 0, b'')]))
save('gguf', 'overflow', gguf([], [('t', [1 << 32, 1 << 32], 0, b'')]))
save('gguf', 'old-version', gguf([], [], version=2))
