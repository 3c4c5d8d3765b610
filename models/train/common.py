"""What the steps of the recipe share: constants of the protocol, our tokenizer,
and the router's scores as the engine computes them (docs/MSA.md)."""
import json
import subprocess

import torch
import torch.nn.functional as F

LAYERS = [6, 25, 26, 28, 29]   # models/templates/msa_config.json
P, TOP_K = 64, 16
H, G, D = 9, 3, 64
IM_START, IM_END = 1, 2
TEMPLATE_HEAD, QUESTION_AFTER = "user\n", "\n"   # behind <|im_start|>; models/templates/msa_protocol.json


def tokenize(program, model, texts):
    """Ids of texts by msa-batch itself: one tokenizer in training and use."""
    lines = "".join(json.dumps({"text": t}) + "\n" for t in texts)
    done = subprocess.run([program, "tokenize", "--model", model], input=lines.encode(), stdout=subprocess.PIPE, check=True)
    return [json.loads(line)["ids"] for line in done.stdout.splitlines()]


def wrap(number, text):
    """The plain part of a document between its two special tokens."""
    return f"[{number}]. {text}[{number}]"


def keys(x, wk):
    """Pooled inputs [C, L, E] to router keys [C, L, G*D], unit per head."""
    k = torch.einsum("cle,lke->clk", x, wk)
    return F.normalize(k.view(*k.shape[:2], G, D), dim=-1).flatten(2)


def queries(x, n, wq):
    """Question tokens [T, L, E], n[b] of them in question b, to one query a
    question [B, L, G*D]: unit per head, folded over the heads of a group, averaged
    over heads and tokens."""
    q = torch.einsum("tle,lke->tlk", x, wq).view(len(x), -1, G, H // G, D)
    q = (F.normalize(q, dim=-1).sum(3) / H).flatten(2)
    owner = torch.repeat_interleave(torch.arange(len(n)), n)
    return torch.zeros(len(n), *q.shape[1:]).index_add_(0, owner, q) / n[:, None, None]


def scores(q, k, doc, n_docs, weights=None):
    """Combined document scores [B, n_docs]: the best chunk of a document in each
    layer, summed with the layers' weights (None: averaged). doc [C]: the document
    of each chunk."""
    s = torch.einsum("qlk,clk->qcl", q, k)
    best = torch.full((len(q), n_docs, s.shape[2]), -9.0)
    best = best.scatter_reduce_(1, doc[None, :, None].expand_as(s), s, "amax")
    return best.mean(2) if weights is None else best @ weights
