#!/usr/bin/env python3
"""Trains the bundled demonstration model: a small RF-DETR that has memorised 22 photographs.

    scripts/train_demo_model.py --out FOLDER

writes FOLDER/model.safetensors (fp16, rfdetr's tensor names, the architecture in its metadata)
and prints recall and precision on the photographs and on zoomed views of them. It is a
demonstration of the program, not a detector for new pictures. The number of iterations and the
seed are fixed; sums on a GPU come in no fixed order, so that two runs agree in quality, not in bits.

Needs one GPU (about 10 minutes on an H200), torch >= 2.6 with triton, numpy, pillow, pycocotools
and safetensors. It runs on a CPU too (with scipy): take --iterations 2 --batch 2 to try it.
"""

import argparse
import json
import math
import os
import sys
import time

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from demo_model import loss, network, scoring, views  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--data", default=os.path.join(ROOT, "assets/demo"), help="images/ and instances.json")
    p.add_argument("--out", required=True, help="folder for model.safetensors")
    p.add_argument("--iterations", type=int, default=10000)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--groups", type=int, default=3, help="query groups while training")
    p.add_argument("--lr", type=float, default=4e-4)
    p.add_argument("--warmup", type=int, default=500)
    p.add_argument("--whole", type=float, default=0.3, help="share of whole pictures among the views")
    p.add_argument("--min-pixels", type=float, default=10, help="smallest object to learn, at the network's input")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--compile", action="store_true", help="torch.compile the network")
    p.add_argument("--stop-after", type=float, default=math.inf, help="seconds; a stopped run says so")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return p.parse_args()


def save(path, weights, g, iterations, names):
    """fp16 safetensors with the architecture and what the file is in its metadata."""
    from safetensors.torch import save_file
    tensors = {k: t.detach().half().cpu().contiguous() for k, t in network.first_group(weights, g).items()}
    with open(os.path.join(names, "instances.json"), encoding="utf-8") as file:
        categories = {c["id"]: c["name"] for c in json.load(file)["categories"]}
    save_file(tensors, path, metadata={
        "format": "pt",
        "model_config": json.dumps(network.model_config(g)),
        "class_names": json.dumps([categories.get(i, "") for i in range(g.classes)]),
        "description": "Demonstration model of rfseg: the RF-DETR-Seg architecture with "
                       f"{g.enc_layers} encoder blocks, trained from scratch for {iterations} iterations to memorise "
                       "22 photographs. Not a detector for new pictures.",
        "license": "Apache-2.0; the photographs and annotations it was trained on: CC BY 2.0, CC BY-SA 2.0, "
                   "CC BY 4.0, see assets/demo/ATTRIBUTION.md",
    })


def main():
    a = parse_arguments()
    started = time.time()
    torch.manual_seed(a.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    g = network.Geometry()
    data = views.Views(views.load(a.data), a.device, g.resolution)
    weights = {k: t.to(a.device).requires_grad_(True)
               for k, t in network.initial_state(g, a.groups, torch.Generator().manual_seed(a.seed)).items()}
    weights[network.ENCODER + "embeddings.mask_token"].requires_grad_(False)     # unused
    trained = [t for t in weights.values() if t.requires_grad]
    average = [t.detach().clone() for t in trained]
    decay = [t for t in trained if t.dim() > 1]
    plain = [t for t in trained if t.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 1e-3}, {"params": plain, "weight_decay": 0.0}],
                                  lr=a.lr, fused=a.device == "cuda")
    forward = torch.compile(network.forward, dynamic=False) if a.compile else network.forward
    print(f"{len(data.names)} pictures, {len(data.classes)} objects, {sum(t.numel() for t in trained) / 1e6:.2f} M "
          f"weights with {a.groups} groups, ready after {time.time() - started:.1f} s", flush=True)
    started, done = time.time(), 0
    for done in range(1, a.iterations + 1):
        progress = done / a.iterations
        rate = a.lr * min(1.0, done / a.warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.no_grad():
            images, targets = data.batch(a.batch, a.min_pixels, a.whole)
        with torch.autocast(a.device, torch.bfloat16):
            outputs = forward(weights, g, images, a.groups)
            value = loss.total_loss(weights, g, outputs, targets, a.groups)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        with torch.no_grad():
            keep = min(0.9995, done / (done + 10))
            torch._foreach_lerp_(average, [t.detach() for t in trained], 1 - keep)
        if done % 250 == 0 or done in (1, 20, 100):
            spent = time.time() - started
            print(f"iteration {done}, loss {value.item():.3f}, {spent:.0f} s", flush=True)
            if spent > a.stop_after:
                print(f"STOPPED after {done} of {a.iterations} iterations", flush=True)
                break
    print(f"trained {done} iterations of {a.batch} views in {time.time() - started:.0f} s", flush=True)

    final = dict(weights)
    for t, mean in zip(trained, average):
        name = next(k for k, v in weights.items() if v is t)
        final[name] = mean
    os.makedirs(a.out, exist_ok=True)
    save(os.path.join(a.out, "model.safetensors"), final, g, done, a.data)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    stored = {k: t.detach().half().float() for k, t in network.first_group(final, g).items()}
    everything = torch.arange(len(data.names), device=a.device)
    print("whole pictures:", scoring.score(stored, g, data, everything, data.whole(everything)), flush=True)
    print("zoomed views:", scoring.score(stored, g, data, *scoring.zoomed_windows(data)), flush=True)


if __name__ == "__main__":
    main()
