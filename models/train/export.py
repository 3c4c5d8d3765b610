#!/usr/bin/env python3
"""What lora.py wrote, as the adapter that `make model` merges, with its recipe, and
the trained layer weights in msa_protocol.json.

    python3 export.py --run OUT --templates models/templates --recipe models/train/lora.json
        [--with ADAPTER RECIPE [--share 0.5]]

Layers whose updates stayed zero are left out. The recipe is metrics.json without the
samples of answers; what people wrote into it (data, history) stays.

With --with every tensor is (1 - share) of the run's and share of ADAPTER's, factor by
factor, and so are the layer weights, ADAPTER's from its RECIPE. That is sound where
the run went on from ADAPTER, so that the factors of both stand in one basis. The
recipe stays the run's and says so under "averaged"."""
import argparse
import hashlib
import json
import os
import shutil

from safetensors.torch import load_file, save_file

LIMIT = 33_000_000   # bytes of an adapter in the repository
WRITTEN = ("data", "history")   # what no run writes


def average(tensors, weights, path, recipe, share):
    """Tensors and layer weights of a run and of the adapter at path, and what was done."""
    with open(path, "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    with open(recipe) as f:
        other = json.load(f)
    other = other.get("averaged", other)["layer_weights"]   # an adapter may be an average itself
    have = load_file(path)
    assert {n: t.shape for n, t in have.items()} == {n: t.shape for n, t in tensors.items()} and len(other) == len(weights)
    mixed = {n: ((1 - share) * t.float() + share * have[n].float()).to(t.dtype) for n, t in tensors.items()}
    weights = [round((1 - share) * x + share * y, 4) for x, y in zip(weights, other)]
    return mixed, weights, {"with": "sha256:" + digest, "share": share, "layer_weights": weights}


def main():
    a = argparse.ArgumentParser()
    for name in ("run", "templates", "recipe"):
        a.add_argument("--" + name, required=True)
    a.add_argument("--picture", help="where the picture of the losses goes")
    a.add_argument("--with", dest="other", nargs=2, metavar=("ADAPTER", "RECIPE"), help="average with this adapter")
    a.add_argument("--share", type=float, default=0.5, help="of that adapter, 0 to 1 (default 0.5)")
    a = a.parse_args()
    tensors = {}
    for i in (0, 1):
        tensors.update(load_file(os.path.join(a.run, f"adapter.{i}")))
    for name in [n for n in tensors if n.endswith(".lora_B.weight") and not tensors[n].any()]:
        del tensors[name], tensors[name.replace(".lora_B.", ".lora_A.")]
    with open(os.path.join(a.run, "metrics.json")) as f:
        metrics = json.load(f)
    weights = metrics["layer_weights"]
    if a.other:
        tensors, weights, metrics["averaged"] = average(tensors, weights, *a.other, a.share)
    assert all(t.isfinite().all() for t in tensors.values())
    path = os.path.join(a.templates, "adapter.safetensors")
    save_file({n: tensors[n].contiguous() for n in sorted(tensors)}, path + ".tmp")
    size = os.path.getsize(path + ".tmp")
    assert size <= LIMIT, size
    os.chmod(path + ".tmp", 0o644)
    os.replace(path + ".tmp", path)
    recipe = {}
    if os.path.exists(a.recipe):
        with open(a.recipe) as f:
            old = json.load(f)
        recipe = {key: old[key] for key in WRITTEN if key in old}
    for key, value in metrics.items():
        if isinstance(value, dict):
            value = {k: v for k, v in value.items() if not k.endswith("_samples")}
        recipe[key] = value
    with open(a.recipe, "w") as f:
        json.dump(recipe, f, indent=1)
        f.write("\n")
    if a.picture:
        shutil.copyfile(os.path.join(a.run, "loss.png"), a.picture)
    path = os.path.join(a.templates, "msa_protocol.json")
    with open(path, encoding="utf-8") as f:
        protocol = json.load(f)
    protocol["layer_weights"] = weights
    with open(path, "w", encoding="utf-8") as f:
        json.dump(protocol, f, indent=1, ensure_ascii=False)
        f.write("\n")
    print(f"{len(tensors)} tensors, {size} bytes; layer weights {weights}")


if __name__ == "__main__":
    main()
