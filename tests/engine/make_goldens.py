"""Writes goldens/NAME.bin: what an independent PyTorch implementation gives for hashed weights.

    python3 make_goldens.py ORACLE_DIR [NAME...]

ORACLE_DIR holds forward.py (the RF-DETR forward pass in plain PyTorch, every intermediate by name) and variants.py (its
15 variants). Every weight is a hash of (tensor name, element index), computed bit for bit as hash_weights.cpp does, at the
scales of that oracle's synthesize.py. Of each named point of the forward pass and of boxes, logits and masks the file keeps
the L2 norm and 512 values at hashed positions (all values in order where there are no more than 512).
Format: one line of JSON (configuration, seeds, names and shapes), then float32 [points, 513]: norm, values, zero padding.

Needs: pip install numpy torch
"""
import dataclasses
import json
import math
import os
import sys

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install numpy torch")

sys.path.insert(0, sys.argv[1])
import forward  # noqa: E402
import variants  # noqa: E402

torch.set_num_threads(2)
SAMPLES = 512
SEED = 1
STEP = np.uint64(0x9E3779B97F4A7C15)
MASK = (1 << 64) - 1


def mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hash_name(name, seed):
    h = 0xCBF29CE484222325
    for c in name.encode():
        h = ((h ^ c) * 0x100000001B3) & MASK
    return mix(np.array([h ^ ((seed * int(STEP)) & MASK)], np.uint64))


def hash_at(name, n, seed):
    return mix(hash_name(name, seed) + (np.arange(n, dtype=np.uint64) + np.uint64(1)) * STEP)


def hash_tensor(name, shape, seed, mean, deviation):
    bits = hash_at(name, int(np.prod(shape)), seed)
    total = bits.view(np.uint16).reshape(-1, 4).sum(1, dtype=np.int64) - 2 * 65535
    scale = np.float32(deviation / 37837.2266)
    return torch.from_numpy((np.float32(mean) + scale * total.astype(np.float32)).reshape(shape))


def weight(name, shape, seed):
    matrix = len(shape) > 1
    if "norm" in name or ".bn." in name or "projector.stages.0.1." in name or "projector.stages.1.1." in name:
        d = (1.0 if name.endswith("weight") else 0.0, 0.1)
    elif "lambda1" in name:
        d = (0.3, 0.1)
    elif name == "refpoint_embed.weight":
        d = (0.0, 0.2)
    elif "bbox_embed" in name:
        d = (0.0, 0.05 if matrix else 0.1)
    elif "class_embed" in name:
        d = (0.0, 0.12) if matrix else (-6.0, 0.3)
    elif "sampling_offsets" in name:
        d = (0.0, 0.05 if matrix else 1.0)
    elif matrix and "position" not in name and "token" not in name and "query_feat" not in name:
        d = (0.0, 1 / math.sqrt(int(np.prod(shape[1:]))))
    else:
        d = (0.0, 0.1)
    return hash_tensor(name, shape, seed, *d)


class General(forward.Oracle):
    """The oracle for rectangular inputs, a stored position table of another side and fewer cells than queries."""

    def encoder(self, image):
        v, sd, e = self.v, self.sd, "backbone.0.encoder.encoder."
        rows, cols, nw, D, p = v.height // v.patch, v.width // v.patch, v.windows, v.enc_dim, v.patch
        h, w = rows // nw, cols // nw
        patches = image.view(3, rows, p, cols, p).permute(1, 3, 0, 2, 4).reshape(rows * cols, -1)
        kernel = sd[e + "embeddings.patch_embeddings.projection.weight"].reshape(D, -1)
        x = patches @ kernel.T + sd[e + "embeddings.patch_embeddings.projection.bias"]
        pos = sd[e + "embeddings.position_embeddings"][0]
        side = math.isqrt(len(pos) - 1)
        table = pos[1:].view(side, side, D).permute(2, 0, 1)[None]
        for size in ((v.pos_grid, v.pos_grid), (rows, cols)):      # torch's own resampling
            if table.shape[2:] != size:
                table = F.interpolate(table, size, mode="bicubic", align_corners=False, antialias=True)
        x = x + table[0].permute(1, 2, 0).reshape(rows * cols, D)
        cls = sd[e + "embeddings.cls_token"][0, 0] + pos[0]
        x = x.view(nw, h, nw, w, D).permute(0, 2, 1, 3, 4).reshape(nw * nw, h * w, D)
        x = self._keep("embed", torch.cat([cls.expand(nw * nw, 1, D), x], 1))
        features = []
        for l in range(v.taps[-1]):
            b = e + f"encoder.layer.{l}."
            y = self.norm(x, b + "norm1", 1e-6)
            q, k, val = (self.lin(y, b + "attention.attention." + n) for n in ("query", "key", "value"))
            if l in v.taps:
                o = forward.attention(*(t.reshape(-1, D) for t in (q, k, val)), v.enc_heads).view(x.shape)
            else:
                o = torch.stack([forward.attention(q[i], k[i], val[i], v.enc_heads) for i in range(nw * nw)])
            x = x + sd[b + "layer_scale1.lambda1"] * self.lin(o, b + "attention.output.dense")
            y = self.norm(x, b + "norm2", 1e-6)
            x = x + sd[b + "layer_scale2.lambda1"] * self.lin(forward.gelu(self.lin(y, b + "mlp.fc1")), b + "mlp.fc2")
            self._keep(f"block{l}", x)
            if l + 1 in v.taps:
                f = self.norm(x, e + "layernorm", 1e-6)[:, 1:].view(nw, nw, h, w, D).permute(0, 2, 1, 3, 4)
                features.append(self._keep(f"tap{len(features)}", f.reshape(rows, cols, D)))
        return features

    def two_stage(self, maps):
        memory, ref = super().two_stage(maps)
        rest = self.sd["refpoint_embed.weight"][len(ref):self.v.queries]     # upstream keeps the learned boxes
        return memory, self._keep("ref", torch.cat([ref, rest]))

    def masks(self, maps, hs):
        size = (self.v.height // 4, self.v.width // 4)
        kept = forward.resample
        forward.resample = lambda x, w: F.interpolate(
            x.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
        try:
            return super().masks(maps, hs)
        finally:
            forward.resample = kept


@dataclasses.dataclass(frozen=True)
class Custom(variants.Variant):
    height: int = 0
    width: int = 0
    stored_pos_grid: int = 0
    classes: int = 91


def custom(name, height, width, patch, pos_grid, windows, taps, dec_layers, queries, classes, **kw):
    return Custom(name, max(height, width), patch, pos_grid, windows, 384, 6, taps, dec_layers, queries, height=height,
                  width=width, enc_layers=taps[-1], classes=classes, **kw)


# Small networks for what no stock variant has.
CUSTOM = {v.name: v for v in [
    # Rectangular windows, position table resampled twice, odd K and Q, two blocks, masks.
    custom("custom-rectangle", 96, 144, 12, 10, 2, (1, 2), 2, 37, 7, stored_pos_grid=9, seg=True),
    # Fewer cells than queries.
    custom("custom-few-cells", 64, 48, 16, 5, 1, (1, 3), 2, 30, 3),
    # Two levels on a rectangular odd grid; an input side whose quarter is not three times the grid, with masks.
    custom("custom-two-levels", 70, 98, 14, 6, 1, (1, 2), 1, 20, 5, dim=128, sa_heads=4, ca_heads=8, points=4,
           levels=("P3", "P5"), seg=True),
    # One level, masks at patch 16.
    custom("custom-patch16", 128, 96, 16, 8, 1, (2,), 3, 25, 2, seg=True),
]}


def state_of(v, classes, stored_pos_grid):
    state = {}
    for key, shape, used in variants.keys(v, classes, 1):
        if "position_embeddings" in key:
            shape = (1, stored_pos_grid ** 2 + 1, v.enc_dim)
        if used:
            state[key] = weight(key, shape, SEED)
    return state


def selection_seed(v, state, oracle, classes, image):
    """The seed of enc_out_class_embed under which the smallest gap between consecutive top scores is largest."""
    maps = oracle.projector(oracle.encoder(image))
    kept = {}

    def keep_rows(x, key):
        if key == "transformer.enc_out_class_embed.0":
            kept["om"] = x
        return forward.Oracle.lin(oracle, x, key)
    oracle.lin = keep_rows
    oracle.two_stage(maps)
    del oracle.lin
    om, best = kept["om"], (-1.0, 0)
    keys = ["transformer.enc_out_class_embed.0." + s for s in ("weight", "bias")]
    for seed in range(1, 301):
        w, b = weight(keys[0], (classes, v.dim), seed), weight(keys[1], (classes,), seed)
        s = torch.sort((om @ w.T + b).max(-1)[0], descending=True)[0][:v.queries + 1]
        best = max(best, (float((s[:-1] - s[1:]).min()), seed))
    for key in keys:
        state[key] = oracle.sd[key] = weight(key, tuple(state[key].shape), best[1])
    return best[1], best[0]


def sample(name, t):
    flat = t.reshape(-1).numpy().astype(np.float32)
    row = np.zeros(SAMPLES + 1, np.float32)
    row[0] = np.linalg.norm(flat.astype(np.float64))
    if len(flat) <= SAMPLES:
        row[1:1 + len(flat)] = flat
    else:
        row[1:] = flat[(hash_at("sample " + name, SAMPLES, 0) % np.uint64(len(flat))).astype(np.int64)]
    return row


def make(v, out):
    general = isinstance(v, Custom)
    height, width = (v.height, v.width) if general else (v.resolution, v.resolution)
    classes = v.classes if general else variants.CLASSES
    stored = (v.stored_pos_grid or v.pos_grid) if general else v.pos_grid
    state = state_of(v, classes, stored)
    oracle = (General if general else forward.Oracle)(v, state)
    image = hash_tensor("input", (3, height, width), SEED, 0.0, 1.0)
    with torch.no_grad():
        seed, gap = selection_seed(v, state, oracle, classes, image)
        boxes, logits, masks = oracle.forward(image)
    points = {**oracle.trace, "boxes": boxes, "logits": logits}
    if masks is not None:
        points["masks"] = masks
    assert all(torch.isfinite(t.float()).all() for t in points.values())
    header = {
        "config": dict(variant=v.name, height=height, width=width, patch=v.patch, pos_grid=v.pos_grid, windows=v.windows,
                       enc_dim=v.enc_dim, enc_heads=v.enc_heads, enc_layers=v.taps[-1], taps=list(v.taps),
                       dec_layers=v.dec_layers, queries=v.queries, num_select=v.queries, dim=v.dim, sa_heads=v.sa_heads,
                       ca_heads=v.ca_heads, points=v.points, ffn_dim=variants.FFN, levels=list(v.levels), seg=v.seg,
                       logits=classes),
        "seed": SEED, "selection_seed": seed, "stored_pos_grid": stored,
        "points": [{"name": n, "shape": list(t.shape)} for n, t in points.items()]}
    with open(os.path.join(out, v.name + ".bin"), "wb") as f:
        f.write(json.dumps(header, separators=(",", ":")).encode() + b"\n")
        f.write(np.stack([sample(n, t) for n, t in points.items()]).tobytes())
    print(f"{v.name}: smallest gap of the selection {gap:.1e} (seed {seed}), logits {float(logits.min()):.2f} to "
          f"{float(logits.max()):.2f}, {int((logits > 0).sum())} above 0", flush=True)


if __name__ == "__main__":
    everything = {**variants.VARIANTS, **CUSTOM}
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "goldens")
    os.makedirs(folder, exist_ok=True)
    for chosen in sys.argv[2:] or everything:
        make(everything[chosen], folder)
