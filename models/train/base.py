"""The frozen base model in PyTorch: Llama type, straight from a folder that
`make model` builds. Returns the normed hidden states that router projections read."""
import json
import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file


class Base:
    def __init__(self, folder, dtype=torch.bfloat16):
        with open(os.path.join(folder, "config.json")) as f:
            c = json.load(f)
        self.H, self.G, self.D = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        self.eps, self.theta = c["rms_norm_eps"], c["rope_theta"]
        t = load_file(os.path.join(folder, "model.safetensors"))
        self.embed = t["model.embed_tokens.weight"].to(dtype)
        self.last_norm = t["model.norm.weight"]
        self.layers = []
        for i in range(c["num_hidden_layers"]):
            w = lambda name: t[f"model.layers.{i}.{name}.weight"]
            self.layers.append({
                "norm": w("input_layernorm"), "mlp_norm": w("post_attention_layernorm"),
                "qkv": torch.cat([w(f"self_attn.{x}_proj") for x in "qkv"]).to(dtype),
                "o": w("self_attn.o_proj").to(dtype),
                "gate_up": torch.cat([w("mlp.gate_proj"), w("mlp.up_proj")]).to(dtype),
                "down": w("mlp.down_proj").to(dtype)})

    def norm(self, x, weight):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * weight

    def rope(self, x, pos):
        half = self.D // 2
        angle = pos[..., None].double() * self.theta ** (-torch.arange(half, dtype=torch.double) / half)
        cos, sin = angle.cos().float()[:, None], angle.sin().float()[:, None]
        a, b = x[..., :half].float(), x[..., half:].float()
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)

    def streams(self, ids, pos):
        """ids, pos [B, T], padded on the right (attention is causal, so padding never
        reaches what stands before it). Yields the residual stream [B, T, E] f32 that
        enters every layer, and then the one behind the last."""
        H, G, D = self.H, self.G, self.D
        dtype = self.embed.dtype
        x = self.embed[ids].float()
        B, T = ids.shape
        for w in self.layers:
            yield x
            n = self.norm(x, w["norm"])
            q, k, v = (n.to(dtype) @ w["qkv"].T).split([H * D, G * D, G * D], -1)
            q, k, v = (y.view(B, T, -1, D).transpose(1, 2) for y in (q, k, v))
            q, k = self.rope(q, pos), self.rope(k, pos)
            k, v = (y.repeat_interleave(H // G, 1) for y in (k, v))
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, H * D)
            x = x + (a @ w["o"].T).float()
            g, u = (self.norm(x, w["mlp_norm"]).to(dtype) @ w["gate_up"].T).chunk(2, -1)
            x = x + ((F.silu(g) * u) @ w["down"].T).float()
        yield x

    @torch.no_grad()
    def router_inputs(self, ids, pos, layers):
        """The normed inputs of these layers [B, T, len(layers), E] f32."""
        out = []
        for i, x in enumerate(self.streams(ids, pos)):
            if i in layers:
                out.append(self.norm(x, self.layers[i]["norm"]))
                if len(out) == len(layers):
                    break
        return torch.stack(out, 2)
