"""Writes tests/checkpoint/data with torch, safetensors and transformers: `python3 make_goldens.py`.

torch/             torch.save files in the layouts that rfdetr writes, of one tiny model. Most of its
                    tensors are views of one small storage, so that a file has a few kilobytes.
tiny.tsv            its tensors: name, shape and FNV-1a hashes of their float32 bytes as stored in
                    fp32, fp16 and bf16
resampled.tsv       position tables that torch resamples to other grids
hf_*.header         headers of .safetensors files of a tiny transformers RfDetr model; their data is
                    a formula of the name (see `formula`), which the test repeats
hf.tsv              that model's tensors under upstream names, as transformers converts them
variants.tsv        how many tensors of each name pattern and shape the published sizes have

Made with torch 2.15, safetensors 0.6, transformers 5.23.

Needs: pip install numpy torch safetensors transformers
"""
import argparse
import collections
import json
import os
import struct
import types
import zipfile

try:
    import numpy as np
    import torch
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install numpy torch safetensors transformers")

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")


def fnv64(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def fnv_of(t):
    return f"{fnv64(t.float().contiguous().numpy().tobytes()):016x}"


# ---------------------------------------------------------------------------- names and shapes

Variant = collections.namedtuple(
    "Variant", "res patch grid windows D taps L Q C points levels seg K groups depth ffn")


def variant(res, patch, grid, windows, D, taps, L, Q, C=256, points=2, levels=("P4",), seg=False,
            K=91, groups=13, depth=12, ffn=2048):
    return Variant(res, patch, grid, windows, D, taps, L, Q, C, points, levels, seg, K, groups,
                   depth, ffn)


A, B = (3, 6, 9, 12), (2, 5, 8, 11)
VARIANTS = {
    "nano": variant(384, 16, 24, 2, 384, A, 2, 300),
    "small": variant(512, 16, 32, 2, 384, A, 3, 300),
    "medium": variant(576, 16, 36, 2, 384, A, 4, 300),
    "base": variant(560, 14, 37, 4, 384, B, 3, 300),
    "large": variant(704, 16, 44, 2, 384, A, 4, 300),
    "large-deprecated": variant(560, 14, 37, 4, 768, B, 3, 300, 384, 4, ("P3", "P5")),
    "xlarge": variant(700, 20, 35, 1, 768, A, 5, 300, 512, 4),
    "2xlarge": variant(880, 20, 44, 2, 768, A, 5, 300, 512, 4),
    "seg-preview": variant(432, 12, 36, 2, 384, A, 4, 200, seg=True),
    "seg-nano": variant(312, 12, 26, 1, 384, A, 4, 100, seg=True),
    "seg-small": variant(384, 12, 32, 2, 384, A, 4, 100, seg=True),
    "seg-medium": variant(432, 12, 36, 2, 384, A, 5, 200, seg=True),
    "seg-large": variant(504, 12, 42, 2, 384, A, 5, 200, seg=True),
    "seg-xlarge": variant(624, 12, 52, 2, 384, A, 6, 300, seg=True),
    "seg-2xlarge": variant(768, 12, 64, 2, 384, A, 6, 300, seg=True),
}
TINY = variant(16, 4, 4, 2, 64, (1, 2), 1, 3, 32, 2, ("P4",), True, 4, 2, 2, 8)


def keys(v):
    """[(name, shape, used)] of state_dict() in rfdetr 1.11.2."""
    out = []
    C, D, heads, levels = v.C, v.D, v.C // 16, len(v.levels)

    def wb(name, *shape, used=True):             # weight and bias of a linear layer or convolution
        out.append((name + ".weight", shape, used))
        out.append((name + ".bias", shape[:1], used))

    def norm(name, n, used=True):
        wb(name, n, used=used)

    def convx(name, o, i, k):
        out.append((name + ".conv.weight", (o, i, k, k), True))
        norm(name + ".bn", o)

    for i in range(v.L):
        p = f"transformer.decoder.layers.{i}."
        out.append((p + "self_attn.in_proj_weight", (3 * C, C), True))
        out.append((p + "self_attn.in_proj_bias", (3 * C,), True))
        wb(p + "self_attn.out_proj", C, C)
        norm(p + "norm1", C)
        wb(p + "cross_attn.sampling_offsets", heads * levels * v.points * 2, C)
        wb(p + "cross_attn.attention_weights", heads * levels * v.points, C)
        wb(p + "cross_attn.value_proj", C, C)
        wb(p + "cross_attn.output_proj", C, C)
        wb(p + "linear1", v.ffn, C)
        wb(p + "linear2", C, v.ffn)
        norm(p + "norm2", C)
        norm(p + "norm3", C)
    norm("transformer.decoder.norm", C)
    wb("transformer.decoder.ref_point_head.layers.0", C, 2 * C)
    wb("transformer.decoder.ref_point_head.layers.1", C, C)
    groups = range(v.groups)
    for g in groups:
        wb(f"transformer.enc_output.{g}", C, C, used=g == 0)
    for g in groups:
        norm(f"transformer.enc_output_norm.{g}", C, used=g == 0)
    for g in groups:
        for i, o in enumerate((C, C, 4)):
            wb(f"transformer.enc_out_bbox_embed.{g}.layers.{i}", o, C, used=g == 0)
    for g in groups:
        wb(f"transformer.enc_out_class_embed.{g}", v.K, C, used=g == 0)
    wb("class_embed", v.K, C)
    for i, o in enumerate((C, C, 4)):
        wb(f"bbox_embed.layers.{i}", o, C)
    if v.seg:
        p = "segmentation_head."
        out.append((p + "bias", (1,), True))
        for i in range(v.L):
            wb(p + f"blocks.{i}.dwconv", C, 1, 3, 3)
            norm(p + f"blocks.{i}.norm", C)
            wb(p + f"blocks.{i}.pwconv1", C, C)
        wb(p + "spatial_features_proj", C, C, 1, 1)
        norm(p + "query_features_block.norm_in", C)
        wb(p + "query_features_block.layers.0", 4 * C, C)
        wb(p + "query_features_block.layers.2", C, 4 * C)
        wb(p + "query_features_proj", C, C)
    out.append(("refpoint_embed.weight", (v.Q * v.groups, 4), True))
    out.append(("query_feat.weight", (v.Q * v.groups, C), True))
    e = "backbone.0.encoder.encoder."
    out.append((e + "embeddings.cls_token", (1, 1, D), True))
    out.append((e + "embeddings.mask_token", (1, D), False))
    out.append((e + "embeddings.position_embeddings", (1, v.grid ** 2 + 1, D), True))
    wb(e + "embeddings.patch_embeddings.projection", D, 3, v.patch, v.patch)
    for i in range(v.depth):
        p, used = e + f"encoder.layer.{i}.", i < v.taps[-1]
        norm(p + "norm1", D, used)
        for part in ("query", "key", "value"):
            wb(p + "attention.attention." + part, D, D, used=used)
        wb(p + "attention.output.dense", D, D, used=used)
        out.append((p + "layer_scale1.lambda1", (D,), used))
        norm(p + "norm2", D, used)
        wb(p + "mlp.fc1", 4 * D, D, used=used)
        wb(p + "mlp.fc2", D, 4 * D, used=used)
        out.append((p + "layer_scale2.lambda1", (D,), used))
    norm(e + "layernorm", D)
    p = "backbone.0.projector."
    for i, level in enumerate(v.levels):
        for j in range(len(v.taps)):
            if level == "P3":
                out.append((p + f"stages_sampling.{i}.{j}.0.weight", (D, D // 2, 2, 2), True))
                out.append((p + f"stages_sampling.{i}.{j}.0.bias", (D // 2,), True))
            if level == "P5":
                convx(p + f"stages_sampling.{i}.{j}.0", D, D, 3)
    for i, level in enumerate(v.levels):
        inside = len(v.taps) * (D // 2 if level == "P3" else D)
        convx(p + f"stages.{i}.0.cv1", C, inside, 1)
        convx(p + f"stages.{i}.0.cv2", C, 5 * (C // 2), 1)
        for m in range(3):
            convx(p + f"stages.{i}.0.m.{m}.cv1", C // 2, C // 2, 3)
            convx(p + f"stages.{i}.0.m.{m}.cv2", C // 2, C // 2, 3)
        norm(p + f"stages.{i}.1", C)
    return out


REPEATED = ("decoder.layers.", "enc_output.", "enc_output_norm.", "enc_out_bbox_embed.",
            "enc_out_class_embed.", "blocks.", "encoder.layer.")


def pattern(name):
    """The one counted index of a name as '#', and its value."""
    for part in REPEATED:
        at = name.find(part)
        if at >= 0:
            head = name[:at + len(part)]
            index, _, tail = name[len(head):].partition(".")
            return head + "#." + tail, int(index)
    return name, 0


def write_variants():
    rows = collections.OrderedDict()
    for column, v in enumerate(VARIANTS.values()):
        for name, shape, used in keys(v):
            key = (pattern(name)[0], shape)
            row = rows.setdefault(key, [[0, 0] for _ in VARIANTS])
            row[column][0] += 1
            row[column][1] += used
    with open(os.path.join(DATA, "variants.tsv"), "w") as f:
        f.write("pattern\tshape\t" + "\t".join(VARIANTS) + "\n")     # count in the file / read
        for (name, shape), counts in rows.items():
            cells = ["" if n == 0 else str(n) if n == used else f"{n}/{used}" for n, used in counts]
            f.write("\t".join([name, ",".join(map(str, shape)), *cells]) + "\n")


# ---------------------------------------------------------------------------- torch.save files

def tiny_state(dtype=torch.float32):
    """Views of one pool with odd strides, and a few tensors of other makes."""
    pool = (torch.rand(1024, generator=torch.Generator().manual_seed(5)) * 2 - 1).to(dtype)
    state = collections.OrderedDict()
    for number, (name, shape, _) in enumerate(keys(TINY)):
        stride, step = [0] * len(shape), iter((1, 3, 5, 7))
        for i in reversed(range(len(shape))):
            stride[i] = next(step) if shape[i] > 1 else 1
        extent = 1 + sum((n - 1) * s for n, s in zip(shape, stride))
        state[name] = pool.as_strided(shape, stride, number * 37 % (1024 - extent + 1))
    # As a head is re-initialised for other classes: repeated, then cut.
    state["class_embed.bias"] = torch.arange(6).to(dtype).repeat(2)[5:5 + TINY.K]
    # Stored column by column.
    name = "transformer.decoder.layers.0.linear2.weight"
    state[name] = pool[:TINY.C * TINY.ffn].clone().view(TINY.ffn, TINY.C).t()
    # A storage of its own, a parameter, and one element shown many times.
    name = "transformer.decoder.norm.weight"
    state[name] = torch.nn.Parameter(pool[100:100 + TINY.C].clone())
    state["transformer.decoder.norm.bias"] = pool[7:8].clone().expand(TINY.C)
    return state


def write_tiny():
    state = tiny_state()
    half, brain = tiny_state(torch.float16), tiny_state(torch.bfloat16)
    with open(os.path.join(DATA, "tiny.tsv"), "w") as f:
        for name, shape, used in keys(TINY):
            if used:
                rows = TINY.Q if name in ("refpoint_embed.weight", "query_feat.weight") else None
                hashes = [fnv_of(s[name].detach()[:rows]) for s in (state, half, brain)]
                shape = (TINY.Q, *shape[1:]) if rows else shape
                f.write("\t".join([name, ",".join(map(str, shape)), *hashes]) + "\n")

    names = ["cat", "dog", "élan"]
    described = dict(
        resolution=16, patch_size=4, num_windows=2, positional_encoding_size=4,
        out_feature_indexes=[1, 2], dec_layers=1, num_queries=3, hidden_dim=32, num_classes=3,
        segmentation_head=True, group_detr=2, encoder="dinov2_windowed_small", two_stage=True,
        projector_scale=["P4"], sa_nheads=1, ca_nheads=2, dec_n_points=2, bbox_reparam=True)
    args = dict(described, num_select=5, class_names=names)

    def save(name, root, **kw):
        torch.save(root, os.path.join(DATA, "torch", name), **kw)

    # rfdetr <= 1.5: checkpoint_best_total.pth
    save("tiny_stripped.pth", {"model": dict(state), "args": argparse.Namespace(**args)})
    # checkpoint.pth of the same, with what must not be read: classes of anyone, optimizer state.
    adam = {i: {"step": torch.tensor(9.0), "exp_avg": torch.full((1,), float("nan")).expand(64)}
            for i in range(3)}
    save("tiny_training.pth", {
        "model": state, "optimizer": {"state": adam, "param_groups": [{"params": [0, 1, 2]}]},
        "lr_scheduler": {"object": np.float64(1.5), "lambda": print, "set": {1, 2}, "big": 1 << 80},
        "epoch": 3, "args": argparse.Namespace(**args),
        "ema_model": collections.OrderedDict((k, -t.detach()) for k, t in list(state.items())[:8])})
    masked = collections.OrderedDict([("_kp_active_mask", torch.zeros(0, 0, dtype=torch.bool)),
                                      *state.items(), ("head._extra_state", {"a": 1})])
    masked._metadata = collections.OrderedDict([("", {"version": 1})])
    meta = {"args": dict(class_names=names, num_select=300, epochs=100), "model_name": "RFDETRSegNano",
            "model_config": dict(described, num_select=5, num_classes=4), "rfdetr_version": "1.11.2"}
    lightning = {
        "state_dict": {"model." + k: t for k, t in masked.items()}, "global_step": 7,
        "pytorch-lightning_version": "2.6.0", "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"EMA": {"average": {"module.model.class_embed.weight": -state["class_embed.weight"]}}},
        "optimizer_states": [], "lr_schedulers": []}
    # rfdetr >= 1.11.1: checkpoint_best_total.pth, last.ckpt of a compiled model
    save("tiny_newest.pth", {"model": masked, **meta, **lightning, "best_total_source": "ema"})
    lightning["state_dict"] = {"model._orig_mod." + k: t for k, t in masked.items()}
    save("tiny_lightning.ckpt", {"epoch": 3, **lightning, **meta})
    # rfdetr >= 1.6: weights.pt of a deployment bundle; a newer pickle protocol
    save("tiny_bundle_half.pt", {"model": half, "args": types.SimpleNamespace(**args)},
         pickle_protocol=4)
    save("tiny_bf16.pth", {"model": brain, "args": argparse.Namespace(**args)}, pickle_protocol=5)
    # a table that the configuration wants on another grid
    moved = dict(described, positional_encoding_size=6, resolution=24, num_select=5)
    save("tiny_moved.pth", {"model": dict(half), "args": meta["args"], "model_config": moved})

    for name in ("tiny_training.pth", "tiny_bundle_half.pt"):
        stem = os.path.splitext(name)[0]
        with zipfile.ZipFile(os.path.join(DATA, "torch", name)) as archive:
            with open(os.path.join(DATA, "pickle", stem + ".pkl"), "wb") as f:
                f.write(archive.read(stem + "/data.pkl"))

    with open(os.path.join(DATA, "resampled.tsv"), "w") as f:
        key = "backbone.0.encoder.encoder.embeddings.position_embeddings"
        for source, dtype in ((state, "f32"), (half, "f16"), (brain, "bf16")):
            table = source[key][0].contiguous()
            for grid in (2, 3, 5, 6, 9):
                patches = table[1:].view(1, 4, 4, 64).permute(0, 3, 1, 2)
                new = torch.nn.functional.interpolate(
                    patches.float(), size=(grid, grid), mode="bicubic", align_corners=False,
                    antialias=True).to(table.dtype)
                rows = torch.cat([table[:1], new[0].permute(1, 2, 0).reshape(-1, 64)]).float()
                sampled = rows.flatten()[::53].tolist()
                f.write(f"{dtype}\t{grid}\t" + " ".join(f"{x:.9g}" for x in sampled) + "\n")


# ---------------------------------------------------------------------------- safetensors

def formula(name, shape):
    """Exact in float32: the top 24 bits of (seed + 2654435761 i) mod 2^32, over 2^24, less 1/2."""
    seed = fnv64(name.encode()) & 0xFFFFFFFF
    n = int(np.prod(shape, dtype=np.int64))
    x = (seed + 2654435761 * np.arange(n, dtype=np.uint64)) & 0xFFFFFFFF
    return torch.from_numpy(((x >> 8).astype(np.float32) / 2 ** 24 - 0.5).reshape(shape))


def write_huggingface():
    import tempfile
    from safetensors.torch import load_file, save_file
    from transformers import RfDetrConfig, RfDetrForInstanceSegmentation

    backbone = dict(model_type="rf_detr_dinov2", hidden_size=64, num_attention_heads=1,
                    num_hidden_layers=2, out_features=["stage1", "stage2"], image_size=16,
                    patch_size=4, num_windows=2)
    config = RfDetrConfig(
        backbone_config=backbone, d_model=32, decoder_self_attention_heads=1,
        decoder_cross_attention_heads=2, decoder_n_points=2, decoder_layers=1, num_queries=3,
        group_detr=1, decoder_ffn_dim=8, intermediate_size=128,
        id2label={0: "N/A", 1: "cat", 2: "dog", 3: "élan"})
    model = RfDetrForInstanceSegmentation(config)
    native = {k: formula(k, t.shape) for k, t in model.state_dict().items()}
    model.load_state_dict(native)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        converted = load_file(os.path.join(folder, "model.safetensors"))
        save_file(native, os.path.join(folder, "native.safetensors"), metadata={"format": "pt"})
        for source, name in (("model", "hf_saved"), ("native", "hf_native")):
            with open(os.path.join(folder, source + ".safetensors"), "rb") as f:
                header = f.read(8)
                header += f.read(struct.unpack("<Q", header)[0])
            with open(os.path.join(DATA, "safetensors", name + ".header"), "wb") as f:
                f.write(header)
        with open(os.path.join(folder, "config.json")) as f:
            stored = json.load(f)
        # With this program's own metadata, so that fuzzing reaches the tensors.
        with open(os.path.join(DATA, "safetensors", "hf_saved.header"), "rb") as f:
            header = json.loads(f.read()[8:])
        header["__metadata__"] = {"rfseg.model_config": json.dumps(
            dict(resolution=[16, 16], num_windows=2, out_feature_indexes=[1, 2], num_queries=3,
                 class_names=["a", "b", "c"]))}
        text = json.dumps(header, separators=(",", ":")).encode()
        with open(os.path.join(DATA, "safetensors", "configured.header"), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text)
    with open(os.path.join(DATA, "hf_config.json"), "w") as f:
        json.dump(stored, f, separators=(",", ":"))
    with open(os.path.join(DATA, "hf.tsv"), "w") as f:
        for name, tensor in sorted(converted.items()):
            f.write("\t".join([name, ",".join(map(str, tensor.shape)), fnv_of(tensor)]) + "\n")


def main():
    for folder in ("torch", "pickle", "safetensors"):
        os.makedirs(os.path.join(DATA, folder), exist_ok=True)
    write_variants()
    write_tiny()
    write_huggingface()
    everything = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.float16)
    finite = everything[torch.isfinite(everything)]
    print("float32 bytes of all finite float16 values, FNV-1a:", fnv_of(finite))


if __name__ == "__main__":
    main()
