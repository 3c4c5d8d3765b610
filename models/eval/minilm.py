"""all-MiniLM-L6-v2 (a BERT of 6 layers, mean over the tokens, unit length) from its
Hugging Face folder, with torch, tokenizers and safetensors alone: fp16 on a card,
float32 on the processor, texts of like length together."""
import json
import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

MOST = 256           # tokens of a text, as the model's own sentence_bert_config.json has it
TOKENS = 1 << 17     # of a batch on a card


class Encoder:
    def __init__(self, folder, device):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            c = json.load(f)
        self.layers, self.heads, self.eps = c["num_hidden_layers"], c["num_attention_heads"], c["layer_norm_eps"]
        self.device, self.dtype = device, torch.float16 if device == "cuda" else torch.float32
        self.w = {k: v.to(device, self.dtype) for k, v in load_file(os.path.join(folder, "model.safetensors")).items()
                  if v.is_floating_point()}
        self.tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MOST)

    def linear(self, x, name):
        return F.linear(x, self.w[name + ".weight"], self.w[name + ".bias"])

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.w[name + ".weight"], self.w[name + ".bias"], self.eps)

    def forward(self, ids, lengths):
        """Ids [n, T] padded with 0. Unit vectors [n, E]."""
        n, T = ids.shape
        there = torch.arange(T, device=ids.device)[None] < lengths[:, None]
        e = "embeddings."
        x = (self.w[e + "word_embeddings.weight"][ids] + self.w[e + "position_embeddings.weight"][:T]
             + self.w[e + "token_type_embeddings.weight"][0])
        x = self.norm(x, e + "LayerNorm")
        split = lambda y: y.view(n, T, self.heads, -1).transpose(1, 2)
        for i in range(self.layers):
            p = f"encoder.layer.{i}."
            q, k, v = (split(self.linear(x, p + "attention.self." + s)) for s in ("query", "key", "value"))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None])
            y = self.linear(y.transpose(1, 2).reshape(n, T, -1), p + "attention.output.dense")
            x = self.norm(x + y, p + "attention.output.LayerNorm")
            y = self.linear(F.gelu(self.linear(x, p + "intermediate.dense")), p + "output.dense")
            x = self.norm(x + y, p + "output.LayerNorm")
        x = (x.float() * there[..., None]).sum(1) / lengths[:, None]
        return F.normalize(x, dim=-1)

    @torch.inference_mode()
    def encode(self, texts):
        ids = []
        for at in range(0, len(texts), 10000):
            # 4,000 characters are more than MOST tokens of any running text
            ids += [e.ids for e in self.tokenizer.encode_batch_fast([t[:4000] for t in texts[at:at + 10000]])]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        out = torch.empty(len(ids), self.w["embeddings.word_embeddings.weight"].shape[1], device=self.device)
        at = 0
        while at < len(order):
            T = (len(ids[order[at]]) + 7) // 8 * 8   # what fast attention likes
            part = order[at:at + max(1, (TOKENS if self.device == "cuda" else 1 << 13) // T)]
            flat = torch.zeros(len(part), T, dtype=torch.int64)
            for row, i in enumerate(part):
                flat[row, :len(ids[i])] = torch.tensor(ids[i])
            lengths = torch.tensor([len(ids[i]) for i in part])
            out[torch.tensor(part)] = self.forward(flat.to(self.device), lengths.to(self.device))
            at += len(part)
        return out
