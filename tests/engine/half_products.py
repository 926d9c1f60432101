"""How far rounding the operands of every matrix product to half alone takes an RF-DETR network from fp32.

    python3 half_products.py ORACLE_DIR [--seeds N] NAME... [--exact PART...]

The least error that any fp16 engine can have: sums, norms, softmax, residuals and everything between products stay in
fp32. Weights are those of make_goldens.py (ORACLE_DIR as there), the selection's order is fp32's. Prints the largest
differences of a query over the range of all values, as cuda_engine_test.cpp does: that test's allowance for outliers comes
from here. --exact leaves products in fp32 whose tensors have one of these in their names: where the error comes from.

Needs: pip install numpy torch
"""
import argparse
import json
import os
import sys

sys.argv, arguments = [sys.argv[0], *sys.argv[1:2]], sys.argv[2:]
import make_goldens as goldens  # noqa: E402
import forward  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import variants  # noqa: E402

fp32_conv2d = F.conv2d


def half(x):
    return x.half().float()


def half_conv2d(x, w, bias=None, **kw):
    if kw.get("groups", 1) > 1:                      # depthwise: no matrix product
        return fp32_conv2d(x, w, bias, **kw)
    return fp32_conv2d(half(x), half(w), bias, **kw)


def half_attention(q, k, v, heads):
    tokens, dim = q.shape
    q, k, v = (half(t).view(-1, heads, dim // heads).transpose(0, 1) for t in (q, k, v))
    p = torch.softmax(q @ k.transpose(1, 2) / (dim // heads) ** 0.5, -1)
    return (half(p) @ v).transpose(0, 1).reshape(tokens, dim)


class Half(forward.Oracle):
    """The oracle with operands of products in half, but for those of `exact`; `order`: the selection's."""
    exact = ()

    def is_exact(self, key):
        return any(part in key for part in self.exact)

    def lin(self, x, key):
        if self.is_exact(key):
            return super().lin(x, key)
        return half(x) @ half(self.sd[key + ".weight"]).T + self.sd[key + ".bias"]

    def convx(self, x, key, *args, **kw):
        rounded = F.conv2d
        F.conv2d = fp32_conv2d if self.is_exact(key) else rounded
        try:
            return super().convx(x, key, *args, **kw)
        finally:
            F.conv2d = rounded

    def two_stage(self, maps):
        topk, torch.topk = torch.topk, lambda *_: (None, self.order)
        try:
            return super().two_stage(maps)
        finally:
            torch.topk = topk

    def forward(self, image):
        kept, fp32_attention = F.conv2d, forward.attention
        F.conv2d, forward.attention = half_conv2d, half_attention
        try:
            return super().forward(image)
        finally:
            F.conv2d, forward.attention = kept, fp32_attention


def errors(expected, found):
    difference = (found - expected).abs().reshape(len(expected), -1).max(1)[0]
    return torch.sort(difference / (expected.max() - expected.min()))[0]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("names", nargs="+", choices=list(variants.VARIANTS))
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--exact", nargs="+", default=(), metavar="PART")
    a = p.parse_args(arguments)
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "goldens")
    for name in a.names:
        v = variants.VARIANTS[name]
        with open(os.path.join(folder, name + ".bin"), "rb") as f:
            header = json.loads(f.readline())
        for seed in range(a.seeds):
            goldens.SEED = header["seed"] + seed
            state = goldens.state_of(v, variants.CLASSES, header["stored_pos_grid"])
            for key in ("weight", "bias"):
                key = "transformer.enc_out_class_embed.0." + key
                state[key] = goldens.weight(key, tuple(state[key].shape), header["selection_seed"])
            image = goldens.hash_tensor("input", (3, v.resolution, v.resolution), goldens.SEED, 0.0, 1.0)
            fp32, engine = forward.Oracle(v, state), Half(v, state)
            expected = fp32.forward(image)
            engine.order, engine.exact = fp32.trace["topk"], a.exact
            found = engine.forward(image)
            line = []
            for kind, e, f in zip(("boxes", "logits", "masks"), expected, found):
                if e is not None:
                    q = errors(e, f)
                    line.append(f"{kind} {float(q[-1]):.3g} (second {float(q[-2]):.3g}, median {float(q[len(q) // 2]):.3g})")
            print(f"{name} seed {seed}: worst query: {', '.join(line)}", flush=True)


if __name__ == "__main__":
    main()
