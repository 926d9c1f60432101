#!/usr/bin/env python3
"""Times the network of this project beside ONNX Runtime, OpenVINO and PyTorch on the same weights.

    scripts/bench_peers.py MODEL.pth [--threads 1 2] [--rounds 12] [--venv DIR]

MODEL is a torch checkpoint or .safetensors file with upstream (rfdetr) tensor names of a model with
one projector level (all but large-deprecated), whose position table fits its input. The peers are
PyPI packages: with --venv DIR (for example /tmp/rfseg-peers) the script makes a virtual environment
there, installs

    pip install numpy torch --index-url https://download.pytorch.org/whl/cpu
    pip install onnx onnxscript onnxruntime openvino safetensors

and runs itself in it; without, it takes what the running Python has and leaves out what is missing.

What is timed is one forward pass, batch 1, float32, pixels in and boxes, logits and masks out. Every
round runs each contestant once, in turn, so that a busy machine slows all of them alike. First the
outputs are compared: a contestant that is off by more than 1e-3 of the range is an error. Printed are
the minimum and median of wall time and of CPU time of the whole process, and the median over rounds
of the ratio to ONNX Runtime in the same round.
"""
import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def in_venv(folder):
    """Runs this script again inside the virtual environment `folder`, which is made if missing."""
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        subprocess.check_call([sys.executable, "-m", "venv", folder])
        pip = [python, "-m", "pip", "install", "-q"]
        subprocess.check_call(pip + ["numpy", "torch", "--extra-index-url",
                                     "https://download.pytorch.org/whl/cpu"])
        subprocess.check_call(pip + ["onnx", "onnxscript", "onnxruntime", "openvino", "safetensors"])
    arguments = [a for i, a in enumerate(sys.argv[1:], 1)
                 if a != "--venv" and sys.argv[i - 1] != "--venv" and not a.startswith("--venv=")]
    os.execv(python, [python, os.path.abspath(__file__), *arguments])


def load_weights(path):
    import torch
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file
        return {k: t.float() for k, t in load_file(path).items()}
    root = torch.load(path, map_location="cpu", weights_only=False)
    state = root.get("model") or {k.removeprefix("model."): t for k, t in root["state_dict"].items()}
    return {k: t.float() for k, t in state.items() if t.is_floating_point()}


def build_model(state, windows, taps):
    """The network as upstream composes it from PyTorch's operators, in a form that exports."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    e = "backbone.0.encoder.encoder."
    depth = len({k.split("layer.")[1].split(".")[0] for k in state if "encoder.layer." in k})
    layers = len({k.split(".")[3] for k in state if k.startswith("transformer.decoder.layers.")})
    patch_weight = state[e + "embeddings.patch_embeddings.projection.weight"]
    width, patch = patch_weight.shape[0], patch_weight.shape[2]
    grid = math.isqrt(state[e + "embeddings.position_embeddings"].shape[1] - 1)
    dim = state["class_embed.weight"].shape[1]
    queries = state["refpoint_embed.weight"].shape[0] // 13
    ca_heads, sa_heads = dim // 16, dim // 32
    points = state["transformer.decoder.layers.0.cross_attn.attention_weights.weight"].shape[0] // ca_heads
    seg = "segmentation_head.bias" in state

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            for key, tensor in state.items():
                self.register_buffer(key.replace(".", "/"), tensor.contiguous())

        def w(self, key):
            return getattr(self, key.replace(".", "/"))

        def linear(self, x, key):
            return F.linear(x, self.w(key + ".weight"), self.w(key + ".bias"))

        def norm(self, x, key, eps):
            weight = self.w(key + ".weight")
            return F.layer_norm(x, weight.shape, weight, self.w(key + ".bias"), eps)

        def norm_nchw(self, x, key, eps):
            return self.norm(x.permute(0, 2, 3, 1), key, eps).permute(0, 3, 1, 2)

        def mlp(self, x, key, n):
            for i in range(n):
                x = self.linear(x, f"{key}.layers.{i}")
                x = F.relu(x) if i < n - 1 else x
            return x

        def attention(self, q, k, v, heads):
            b, t, d = q.shape
            q, k, v = (x.view(b, t, heads, d // heads).transpose(1, 2) for x in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d)

        def convx(self, x, key, side):
            y = F.conv2d(x, self.w(key + ".conv.weight"), padding=side // 2)
            return F.silu(self.norm_nchw(y, key + ".bn", 1e-6))

        def encode(self, image):
            n, h = windows, grid // windows
            x = F.conv2d(image, patch_weight_of(self), self.w(e + "embeddings.patch_embeddings.projection.bias"),
                         stride=patch)
            x = x.flatten(2).transpose(1, 2)
            position = self.w(e + "embeddings.position_embeddings")
            x = (x + position[:, 1:]).view(n, h, n, h, width).permute(0, 2, 1, 3, 4).reshape(n * n, h * h, width)
            cls = (self.w(e + "embeddings.cls_token") + position[:, :1]).expand(n * n, 1, width)
            x = torch.cat([cls, x], 1)
            features = []
            for i in range(min(depth, taps[-1])):
                b = f"{e}encoder.layer.{i}."
                y = self.norm(x, b + "norm1", 1e-6)
                q, k, v = (self.linear(y, b + "attention.attention." + p) for p in ("query", "key", "value"))
                if i in taps:
                    q, k, v = (t.reshape(1, -1, width) for t in (q, k, v))
                o = self.attention(q, k, v, width // 64).reshape(x.shape)
                x = x + self.linear(o, b + "attention.output.dense") * self.w(b + "layer_scale1.lambda1")
                y = F.gelu(self.linear(self.norm(x, b + "norm2", 1e-6), b + "mlp.fc1"))
                x = x + self.linear(y, b + "mlp.fc2") * self.w(b + "layer_scale2.lambda1")
                if i + 1 in taps:
                    f = self.norm(x, e + "layernorm", 1e-6)[:, 1:]
                    f = f.reshape(n, n, h, h, width).permute(0, 2, 1, 3, 4).reshape(1, grid, grid, width)
                    features.append(f.permute(0, 3, 1, 2))
            return features

        def project(self, features):
            b = "backbone.0.projector.stages.0.0."
            y = list(self.convx(torch.cat(features, 1), b + "cv1", 1).split(dim // 2, 1))
            for m in range(3):
                y.append(self.convx(self.convx(y[-1], f"{b}m.{m}.cv1", 3), f"{b}m.{m}.cv2", 3))
            return self.norm_nchw(self.convx(torch.cat(y, 1), b + "cv2", 1), "backbone.0.projector.stages.0.1", 1e-6)

        def deformable(self, c, value, ref, key):
            q = c.shape[1]
            off = self.linear(c, key + "sampling_offsets").view(q, ca_heads, points, 2)
            weights = self.linear(c, key + "attention_weights").view(q, ca_heads, points).softmax(-1)
            where = ref[0, :, None, None, :2] + off * ref[0, :, None, None, 2:] * (0.5 / points)
            maps = value.transpose(1, 2).reshape(ca_heads, dim // ca_heads, grid, grid)
            sampled = F.grid_sample(maps, (2 * where - 1).transpose(0, 1), mode="bilinear",
                                    padding_mode="zeros", align_corners=False)
            out = (sampled * weights.transpose(0, 1)[:, None]).sum(-1)
            return self.linear(out.reshape(1, dim, q).transpose(1, 2), key + "output_proj")

        def forward(self, image):
            spatial = self.project(self.encode(image))
            memory = spatial.flatten(2).transpose(1, 2)
            t = "transformer."
            axis = (torch.arange(grid) + 0.5) / grid
            gy, gx = torch.meshgrid(axis, axis, indexing="ij")
            anchors = torch.stack([gx, gy, torch.full_like(gx, 0.05), torch.full_like(gx, 0.05)], -1).view(1, -1, 4)
            valid = ((anchors > 0.01) & (anchors < 0.99)).all(-1, keepdim=True).float()
            anchors = anchors * valid
            om = self.norm(self.linear(memory * valid, t + "enc_output.0"), t + "enc_output_norm.0", 1e-5)
            score = self.linear(om, t + "enc_out_class_embed.0").max(-1)[0]
            index = torch.topk(score, queries, dim=1)[1][..., None]
            om = om.gather(1, index.expand(-1, -1, dim))
            anchors = anchors.gather(1, index.expand(-1, -1, 4))

            def refine(delta, box):
                return torch.cat([delta[..., :2] * box[..., 2:] + box[..., :2], delta[..., 2:].exp() * box[..., 2:]], -1)
            ref = refine(self.mlp(om, t + "enc_out_bbox_embed.0", 3), anchors)
            ref = refine(self.w("refpoint_embed.weight")[None, :queries], ref)
            half = dim // 2
            wave = 10000 ** (2 * (torch.arange(half) // 2).float() / half)

            def sine(u):
                a = u[..., None] * 2 * math.pi / wave
                return torch.stack([a[..., 0::2].sin(), a[..., 1::2].cos()], -1).flatten(-2)
            embed = torch.cat([sine(ref[..., i]) for i in (1, 0, 2, 3)], -1)
            qpos = self.mlp(embed, t + "decoder.ref_point_head", 2)
            x = self.w("query_feat.weight")[None, :queries]
            for i in range(layers):
                b = f"{t}decoder.layers.{i}."
                w, bias = self.w(b + "self_attn.in_proj_weight"), self.w(b + "self_attn.in_proj_bias")
                y = x + qpos
                q, k = F.linear(y, w[:2 * dim], bias[:2 * dim]).split(dim, -1)
                o = self.attention(q, k, F.linear(x, w[2 * dim:], bias[2 * dim:]), sa_heads)
                x = self.norm(x + self.linear(o, b + "self_attn.out_proj"), b + "norm1", 1e-5)
                value = self.linear(memory, b + "cross_attn.value_proj")
                x = self.norm(x + self.deformable(x + qpos, value, ref, b + "cross_attn."), b + "norm2", 1e-5)
                x = self.norm(x + self.linear(F.relu(self.linear(x, b + "linear1")), b + "linear2"), b + "norm3", 1e-5)
            hs = self.norm(x, t + "decoder.norm", 1e-5)
            boxes, logits = refine(self.mlp(hs, "bbox_embed", 3), ref), self.linear(hs, "class_embed")
            if not seg:
                return boxes, logits
            s = "segmentation_head."
            y = F.interpolate(spatial, size=(grid * patch // 4,) * 2, mode="bilinear", align_corners=False)
            for i in range(layers):
                b = f"{s}blocks.{i}."
                z = F.conv2d(y, self.w(b + "dwconv.weight"), self.w(b + "dwconv.bias"), padding=1, groups=dim)
                z = self.norm(z.permute(0, 2, 3, 1), b + "norm", 1e-6)
                y = y + F.gelu(self.linear(z, b + "pwconv1")).permute(0, 3, 1, 2)
            p = F.conv2d(y, self.w(s + "spatial_features_proj.weight"), self.w(s + "spatial_features_proj.bias"))
            z = self.norm(hs, s + "query_features_block.norm_in", 1e-5)
            q = self.linear(F.gelu(self.linear(z, s + "query_features_block.layers.0")), s + "query_features_block.layers.2")
            q = self.linear(hs + q, s + "query_features_proj")
            return boxes, logits, torch.einsum("bchw,bqc->bqhw", p, q) + self.w(s + "bias")

    def patch_weight_of(network):
        return network.w(e + "embeddings.patch_embeddings.projection.weight")

    return Network().eval(), grid * patch


class Own:
    """The program bench/forward_rounds, which runs one pass per line."""

    def __init__(self, name, binary, model, image, threads, folder):
        self.name, self.folder = name, os.path.join(folder, "own")
        os.makedirs(self.folder, exist_ok=True)
        pixels = os.path.join(folder, "input.npy")
        import numpy as np
        np.save(pixels, image)
        self.process = subprocess.Popen([binary, model, pixels, str(threads)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.load_ms = float(self.process.stdout.readline().split()[1])

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().split()

    def run(self):
        return tuple(map(float, self.ask("run")))

    def outputs(self):
        import numpy as np
        self.ask("save " + self.folder)
        files = [os.path.join(self.folder, n + ".npy") for n in ("boxes", "logits", "masks")]
        return [np.load(f) for f in files if os.path.exists(f)]

    def note(self):
        peak, engine = self.ask("memory")
        return f"load {self.load_ms:.0f} ms, peak RSS {peak} MB, engine {engine} MB"


class Timed:
    """A contestant of this process."""

    def __init__(self, name, call):
        self.name, self.call = name, call

    def run(self):
        wall, cpu = time.perf_counter(), time.process_time()
        self.result = self.call()
        return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3

    def outputs(self):
        import numpy as np
        return [np.asarray(t) for t in self.result]

    def note(self):
        return ""


def contestants(a, network, image, onnx_file, threads, folder):
    import numpy as np
    found = [Own("rfseg", a.binary, a.model, image, threads, folder)]
    if a.other:
        found.append(Own("other", a.other, a.model, image, threads, os.path.join(folder, "other")))
    try:
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # Workers that spin between contestants' turns would slow the others.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(onnx_file, options, providers=["CPUExecutionProvider"])
        found.append(Timed(f"onnxruntime {onnxruntime.__version__}", lambda: session.run(None, {"input": image})))
    except ImportError:
        print("onnxruntime is not installed: left out")
    try:
        import openvino
        core = openvino.Core()
        compiled = core.compile_model(onnx_file, "CPU", {
            "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"})
        found.append(Timed(f"openvino {openvino.__version__.split('-')[0]}",
                           lambda: list(compiled([image]).values())))
    except ImportError:
        print("openvino is not installed: left out")
    if not a.no_torch:
        import torch
        torch.set_num_threads(threads)
        tensor = torch.from_numpy(image)

        def eager():
            with torch.inference_mode():
                return [t.numpy() for t in network(tensor)]
        found.append(Timed(f"torch {torch.__version__} eager", eager))
    return found


def compare(everyone):
    import numpy as np
    base = everyone[-1].outputs()
    for c in everyone[:-1]:
        worst = max(float(np.abs(x - y).max() / np.ptp(y)) for x, y in zip(c.outputs(), base, strict=True))
        print(f"  {c.name}: differs from {everyone[-1].name} by {worst:.1e} of the range")
        if not worst <= 1e-3:
            sys.exit("outputs disagree: nothing is timed")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    p.add_argument("--rounds", type=int, default=12)
    p.add_argument("--windows", type=int, default=1, help="attention windows per side (seg-nano 1, most others 2)")
    p.add_argument("--taps", type=int, nargs="+", default=[3, 6, 9, 12])
    p.add_argument("--binary", default=os.path.join(ROOT, "build/release/bench/forward_rounds"))
    p.add_argument("--other", help="a second build of forward_rounds, for A/B in the same rounds")
    p.add_argument("--no-torch", action="store_true", help="leave PyTorch itself out")
    p.add_argument("--venv")
    a = p.parse_args()
    if a.venv:
        in_venv(a.venv)
    import numpy as np
    import torch
    network, side = build_model(load_weights(a.model), a.windows, a.taps)
    image = np.random.default_rng(0).standard_normal((1, 3, side, side), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        onnx_file = os.path.join(folder, "model.onnx")
        torch.onnx.export(network, (torch.from_numpy(image),), onnx_file, input_names=["input"],
                          opset_version=17, dynamo=False)
        for threads in a.threads:
            os.makedirs(os.path.join(folder, "other"), exist_ok=True)
            everyone = contestants(a, network, image, onnx_file, threads, folder)
            times = {c.name: [] for c in everyone}
            for c in everyone:
                c.run(), c.run()
            compare(everyone)
            for _ in range(a.rounds):
                for c in everyone:
                    times[c.name].append(c.run())
            base = next((c.name for c in everyone if c.name.startswith("onnxruntime")), everyone[0].name)
            print(f"{threads} thread(s), {a.rounds} rounds, ms: wall min / median, CPU min / median, "
                  f"median ratio to {base}: wall, CPU")
            for c in everyone:
                wall, cpu = zip(*times[c.name])
                ratio = [statistics.median(x[i] / y[i] for x, y in zip(times[c.name], times[base])) for i in (0, 1)]
                print(f"  {c.name:24s} {min(wall):7.1f} / {statistics.median(wall):7.1f}   "
                      f"{min(cpu):7.1f} / {statistics.median(cpu):7.1f}   {ratio[0]:.3f}  {ratio[1]:.3f}  {c.note()}")
            for c in everyone:
                if isinstance(c, Own):
                    c.process.stdin.close()
                    c.process.wait()


if __name__ == "__main__":
    main()
