"""The base model with low-rank updates, for training: the forward pass of base.py
over packed sequences, bf16 products with a float32 residual stream.

Updates are merged before a step, W = W0 + B A, and the gradient of a merged weight
is taken back to A and B afterwards: the forward pass is that of a plain model, and
what is trained is, rounding included, what `make model` merges."""
import math

import numpy as np
import torch
import torch.nn.functional as F

LAYERS, E, H, G, D, I, V = 30, 576, 9, 3, 64, 1536, 49152
EPS, THETA = 1e-5, 1e5
# what is packed into one product, and the parts' rows
PACKS = {"qkv": ("attn_q", "attn_k", "attn_v"), "o": ("attn_output",), "gate_up": ("ffn_gate", "ffn_up"), "down": ("ffn_down",)}
NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def dequantise(kind, shape, raw):
    """One tensor of a GGUF file (models/gguf.c) as float32."""
    if kind == "F32":
        return raw.view(np.float32).reshape(shape).copy()
    if kind == "Q8_0":   # half scale, 32 bytes
        b = raw.reshape(-1, 34)
        return (b[:, :2].copy().view(np.float16).astype(np.float32) * b[:, 2:].view(np.int8)).reshape(shape)
    if kind == "Q4_1":   # half scale, half minimum, 32 numbers of four bits: the low halves first
        b = raw.reshape(-1, 20)
        d, m = (b[:, i:i + 2].copy().view(np.float16).astype(np.float32) for i in (0, 2))
        return (np.concatenate([b[:, 4:] & 15, b[:, 4:] >> 4], 1) * d + m).reshape(shape)
    raise ValueError(kind)


def tensors(table, blob):
    """All tensors of the pieces, rows of q and k heads back in order: GGUF keeps
    them as the pairs that RoPE turns together."""
    out = {}
    for t in table:
        w = dequantise(t["type"], t["shape"], np.frombuffer(blob, np.uint8, t["bytes"], t["at"]))
        if t["name"].endswith(("attn_q.weight", "attn_k.weight")):
            w = w.reshape(-1, D // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
        out[t["name"]] = torch.from_numpy(np.ascontiguousarray(w))
    return out


class Rotate(torch.autograd.Function):
    """RoPE of [N, heads, D]; the way back turns the other way."""
    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return Rotate.turn(x, cos, sin)

    @staticmethod
    def turn(x, cos, sin):
        a, b = x.float().chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        cos, sin = ctx.saved_tensors
        return Rotate.turn(grad, cos, -sin), None, None


class Gate(torch.autograd.Function):
    """silu(g) * u of [N, 2 I], keeping nothing but its input."""
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        g, u = x.chunk(2, -1)
        return F.silu(g) * u

    @staticmethod
    def backward(ctx, grad):
        g, u = ctx.saved_tensors[0].chunk(2, -1)
        s = torch.sigmoid(g)
        y = g * s
        return torch.cat([grad * u * (s + y - y * s), grad * y], -1)


class Thin(torch.autograd.Function):
    """x W^T for a merged weight W = W0 + B A: the gradients of A and B without that
    of W, a third less work where products are what takes the time."""
    @staticmethod
    def forward(ctx, x, w, parts):
        """parts: A, B of every part, views of the rank's stacks; their gradients likewise."""
        ctx.save_for_backward(x)
        ctx.w, ctx.parts = w, parts
        return F.linear(x, w)

    @staticmethod
    def backward(ctx, grad):
        x, at = ctx.saved_tensors[0], 0
        for a, b, da, db in ctx.parts:
            g = grad[:, at:at + len(b)]
            at += len(b)
            db += g.T @ F.linear(x, a.to(x.dtype))
            da += (g @ b.to(g.dtype)).T @ x
        return grad @ ctx.w, None, None


class Packed:
    """Sequences packed for one pass: groups of about one length, padded on the
    right inside a group (attention is causal: padding never reaches what stands
    before it). row[i]: where the tokens of sequence i begin."""
    def __init__(self, sequences, device, starts=None, lead=0, branches=None):
        """sequences: arrays of ids. starts[i]: the position of the token numbered
        `lead`, 0: positions run on. branches[i]: of every token 0 (the trunk) or the
        number of its branch; a branch sees the trunk and itself, and its positions
        continue the trunk's."""
        order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
        ids, pos, self.shapes, self.row, at = [], [], [], [0] * len(sequences), 0
        self.masks, even = [], 8 if branches is None else 16   # as the kernels for masks want them
        while order:
            T, n = -(-len(sequences[order[0]]) // even) * even, 0
            while n < len(order) and len(sequences[order[n]]) > (0.7 * T if T > 32 else 0):
                n += 1
            block = np.zeros((n, T), np.int64)
            where = np.tile(np.arange(T), (n, 1))
            branch = np.zeros((n, T), np.int64)
            for k, i in enumerate(order[:n]):
                block[k, :len(sequences[i])] = sequences[i]
                if starts is not None and starts[i]:
                    where[k, lead:] += starts[i] - lead
                if branches is not None:
                    b = branches[i]
                    branch[k, :len(b)] = b
                    trunk = int((b == 0).sum())
                    for r in range(1, int(b.max()) + 1):
                        own = np.flatnonzero(b == r)
                        where[k, own] = trunk + np.arange(len(own))
                self.row[i] = at + k * T
            ids.append(block.reshape(-1))
            pos.append(where.reshape(-1))
            self.shapes.append((n, T))
            hidden = None
            if branches is not None:
                branch = torch.from_numpy(branch).to(device)
                hidden = (branch[:, None] != 0) & (branch[:, None] != branch[:, :, None])
                hidden |= torch.ones(T, T, dtype=torch.bool, device=device).triu(1)
            self.masks.append(hidden)
            at, order = at + n * T, order[n:]
        self.ids, self.pos = (torch.from_numpy(np.concatenate(x)).to(device) for x in (ids, pos))


class Model:
    def __init__(self, t, device, rank, seed=0, dtype=torch.bfloat16, thin=False, first=0):
        """thin: gradients by Thin; layers below `first` stay the base's then."""
        self.device, self.dtype, self.thin, self.first, self.merged = device, dtype, thin, first, 0
        generator = torch.Generator().manual_seed(seed)
        self.embed = t["token_embd.weight"].to(device, dtype)
        self.last_norm = t["output_norm.weight"].to(device)
        self.norms = [[t[f"blk.{i}.{n}_norm.weight"].to(device) for n in ("attn", "ffn")] for i in range(LAYERS)]
        self.w0 = {n: torch.stack([t[f"blk.{i}.{n}.weight"] for i in range(LAYERS)]).to(device) for n in NAMES}
        self.a, self.b = {}, {}
        for n, w in self.w0.items():
            bound = 1 / math.sqrt(w.shape[2])
            a = (torch.rand(LAYERS, rank, w.shape[2], generator=generator) * 2 - 1) * bound
            self.a[n] = a.to(device)
            self.b[n] = torch.zeros(LAYERS, w.shape[1], rank, device=device)
        self.w = {p: [torch.empty(sum(self.w0[n].shape[1] for n in parts), self.w0[parts[0]].shape[2], device=device, dtype=dtype)
                      .requires_grad_(not thin) for _ in range(LAYERS)] for p, parts in PACKS.items()}
        angle = torch.arange(9000).double()[:, None] * THETA ** (-torch.arange(D // 2).double() / (D // 2))
        self.cos, self.sin = angle.cos().float().to(device), angle.sin().float().to(device)
        self.merge()

    @torch.no_grad()
    def merge(self):
        """Sets the weights of the forward pass; those below `first` once."""
        low, self.merged = self.merged, self.first
        for p, parts in PACKS.items():
            whole = torch.cat([torch.baddbmm(self.w0[n][low:], self.b[n][low:], self.a[n][low:]) for n in parts], 1)
            for w, new in zip(self.w[p][low:], whole):
                w.copy_(new)

    def parameters(self):
        return list(self.a.values()), list(self.b.values())

    @torch.no_grad()
    def gradients(self):
        """Moves the gradients of the merged weights to A and B."""
        if self.thin:
            return   # they are there already
        for p, parts in PACKS.items():
            rows = [self.w0[n].shape[1] for n in parts]
            zero = torch.zeros_like(self.w[p][0])
            whole = torch.stack([zero if w.grad is None else w.grad for w in self.w[p]]).float()
            for n, g in zip(parts, whole.split(rows, 1)):
                self.b[n].grad = g @ self.a[n].transpose(1, 2)
                self.a[n].grad = self.b[n].transpose(1, 2) @ g
            for w in self.w[p]:
                w.grad = None

    def linear(self, x, p, i):
        if not self.thin or not torch.is_grad_enabled():
            return F.linear(x, self.w[p][i])
        for n in PACKS[p]:
            for w in (self.a[n], self.b[n]):
                if w.grad is None:
                    w.grad = torch.zeros_like(w)
        return Thin.apply(x, self.w[p][i], [(self.a[n][i].detach(), self.b[n][i].detach(), self.a[n].grad[i], self.b[n].grad[i])
                                            for n in PACKS[p]])

    def norm(self, x, weight):
        return F.rms_norm(x, (E,), weight, EPS).to(self.dtype)

    def run(self, packed, capture=()):
        grad = torch.is_grad_enabled()
        try:
            return self.forward(packed, capture, grad)
        finally:
            torch.set_grad_enabled(grad)

    def forward(self, packed, capture, grad):
        """The residual stream behind the last layer [N, E] float32; with capture, the
        normed inputs of these layers instead, and nothing is computed behind them."""
        x = self.embed[packed.ids].float()
        cos, sin = self.cos[packed.pos][:, None], self.sin[packed.pos][:, None]
        masks = [m if m is None else torch.zeros(m.shape, dtype=torch.float32 if self.thin else self.dtype, device=m.device)
                 .masked_fill_(m, -1e9)[:, None] for m in packed.masks]
        out = []
        for i in range(LAYERS):
            if self.thin and i == self.first and grad:
                x.requires_grad_()
            torch.set_grad_enabled(grad and (not self.thin or i >= self.first))
            n = self.norm(x, self.norms[i][0])
            if i in capture:
                out.append(n)
                if len(out) == len(capture):
                    return out
            qk, v = self.linear(n, "qkv", i).split([(H + G) * D, G * D], 1)
            q, k = Rotate.apply(qk.reshape(-1, H + G, D), cos, sin).split([H, G], 1)
            k, v = (y.repeat_interleave(H // G, 1) for y in (k, v.reshape(-1, G, D)))
            sizes, parts = [b * T for b, T in packed.shapes], []
            for (b, T), mask, *qkv in zip(packed.shapes, masks, q.split(sizes), k.split(sizes), v.split(sizes)):
                q1, k1, v1 = (y.reshape(b, T, H, D).transpose(1, 2) for y in qkv)
                if self.thin:   # quicker there in float32, backwards above all
                    q1, k1, v1 = q1.float(), k1.float(), v1.float()
                y = F.scaled_dot_product_attention(q1, k1, v1, mask, is_causal=mask is None)
                parts.append(y.to(self.dtype).transpose(1, 2).reshape(b * T, H * D))
            x = x + self.linear(torch.cat(parts), "o", i)
            x = x + self.linear(Gate.apply(self.linear(self.norm(x, self.norms[i][1]), "gate_up", i)), "down", i)
        return x

    def logits(self, x):
        return F.linear(self.norm(x, self.last_norm), self.embed).float()


class Routers:
    """Router projections of LAYERS, float32, and the engine's document scores."""
    def __init__(self, wq, wk, log_scale, device):
        self.wq, self.wk = (torch.nn.Parameter(w.float().to(device)) for w in (wq, wk))
        self.log_scale = torch.nn.Parameter(torch.tensor(log_scale, device=device))
        self.mix = torch.nn.Parameter(torch.zeros(len(wq), device=device))   # softmax: the layers' weights

    def parameters(self):
        return [self.wq, self.wk], [self.log_scale, self.mix]

    def project(self, x, w, heads):
        """x: of every layer, rows [R, E]; unit vectors of every head [R, L, heads, D]."""
        y = torch.stack([F.linear(a, b.to(a.dtype)) for a, b in zip(x, w)], 1)
        return F.normalize(y.float().view(len(y), len(w), heads, D), dim=-1)

    def keys(self, states, packed, lengths, P):
        """[documents, chunks, L, G*D] and which chunks there are [documents, chunks]."""
        N, chunks = len(packed.ids), [-(-n // P) for n in lengths]
        owner = np.full(N, sum(chunks), np.int64)   # padding goes to a place of its own
        size, first = np.zeros(sum(chunks) + 1, np.float32), np.concatenate([[0], np.cumsum(chunks)])
        for row, n, c in zip(packed.row, lengths, first):
            which = c + np.arange(n) // P
            owner[row:row + n] = which
            size[c:c + -(-n // P)] = np.bincount(which - c)
        device = states[0].device
        owner = torch.from_numpy(owner).to(device)
        size = torch.from_numpy(np.maximum(size, 1)).to(device)[:, None]
        mean = [(torch.zeros(len(size), E, device=device).index_add(0, owner, s.float()) / size)[:-1] for s in states]
        k = self.project(mean, self.wk, G).flatten(2)
        M = max(chunks)
        there = np.arange(M)[None] < np.array(chunks)[:, None]
        at = torch.from_numpy(np.where(there, first[:-1, None] + np.arange(M)[None], 0)).to(device)
        return k[at], torch.from_numpy(there).to(device)

    def queries(self, states, packed, lead, lengths):
        """[questions, L, G*D]: the tokens behind the first `lead` of each route."""
        rows = np.concatenate([np.arange(r + lead, r + n) for r, n in zip(packed.row, lengths)])
        owner = np.repeat(np.arange(len(lengths)), [n - lead for n in lengths])
        device = states[0].device
        rows, owner = torch.from_numpy(rows).to(device), torch.from_numpy(owner).to(device)
        q = self.project([s[rows] for s in states], self.wq, H)
        q = q.view(*q.shape[:2], G, H // G, D).sum(3).flatten(2) / H
        size = torch.tensor([n - lead for n in lengths], device=device)
        return torch.zeros(len(lengths), *q.shape[1:], device=device).index_add(0, owner, q) / size[:, None, None]

    def scores(self, q, k, there):
        """Combined scores [questions, documents]: the best chunk of each layer, weighted over layers."""
        B, (N, M, L, W) = len(q), k.shape
        s = torch.stack([q[:, i] @ k[:, :, i].reshape(N * M, W).T for i in range(L)], -1).view(B, N, M, L)
        best = s.masked_fill(~there[None, :, :, None], -9.0).amax(2)
        return best @ torch.softmax(self.mix, 0)
