#!/usr/bin/env python3
"""Trains the bundled demonstration model: a small RF-DETR that has memorised 22 photographs.

    scripts/train_demo_model.py --out FOLDER

writes FOLDER/model.safetensors (fp16, rfdetr's tensor names, the architecture in its metadata)
and prints recall and precision on the photographs and on zoomed views of them. It is a
demonstration of the program, not a detector for new pictures. The number of iterations and the
seed are fixed; sums on a GPU come in no fixed order, so that two runs agree in quality, not in bits.

Takes one GPU (about 10 minutes on an H200) and torch 2.6 or newer with triton. It runs on a CPU
too (with scipy): take --iterations 2 --batch 2 to try it.

Needs: pip install torch numpy pillow pycocotools safetensors
"""

import argparse
import json
import math
import os
import sys
import time

try:
    import torch
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install torch numpy pillow pycocotools safetensors")

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from demo_model import loss, network, scoring, views  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--data", default=os.path.join(ROOT, "assets/demo"), help="images/ and instances.json")
    p.add_argument("--out", required=True, help="folder for model.safetensors")
    p.add_argument("--iterations", type=int, default=18000)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--groups", type=int, default=3, help="query groups while training")
    p.add_argument("--lr", type=float, default=4e-4)
    p.add_argument("--warmup", type=int, default=500)
    p.add_argument("--whole", type=float, default=0.3, help="share of whole pictures among the views")
    p.add_argument("--min-pixels", type=float, default=10, help="smallest object to learn, at the network's input")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--eager", action="store_true", help="neither torch.compile nor a CUDA graph")
    p.add_argument("--stop-after", type=float, default=math.inf, help="seconds after the start; a stopped run says so")
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


def recorded(step, optimizer):
    """The step as a replayable CUDA graph: the host would take longer to launch it than the GPU to run it."""
    started = time.time()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):                       # compiles everything; the learning rate is still zero
            optimizer.zero_grad(set_to_none=True)
            step()
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = step()
    print(f"compiled and recorded in {time.time() - started:.1f} s", flush=True)

    def replay():
        graph.replay()
        return value

    return replay


def main():
    a = parse_arguments()
    launched = started = time.time()
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
    cuda = a.device == "cuda"
    rate = torch.tensor(0.0, device=a.device)
    optimizer = torch.optim.AdamW([{"params": [t for t in trained if t.dim() > 1], "weight_decay": 1e-3},
                                   {"params": [t for t in trained if t.dim() <= 1], "weight_decay": 0.0}],
                                  lr=rate if cuda else a.lr, fused=cuda, capturable=cuda)
    forward = network.forward
    if cuda and not a.eager:
        forward = torch.compile(forward, dynamic=False)
        loss.costs = torch.compile(loss.costs, dynamic=False)
        loss.stage_loss = torch.compile(loss.stage_loss, dynamic=False)
        data.make_images = torch.compile(data.images, dynamic=False)
        data.make_targets = torch.compile(data.targets, dynamic=False)

    def step():
        with torch.no_grad():
            images, targets = data.batch(a.batch, a.min_pixels, a.whole)
        with torch.autocast(a.device, torch.bfloat16):
            outputs = forward(weights, g, images, a.groups)
            value = loss.total_loss(weights, g, outputs, targets, a.groups)
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return value.detach()

    def finish(iterations, everything):
        """Saves the averaged weights and scores them as stored, in fp32 arithmetic."""
        final = dict(zip((k for k, t in weights.items() if t.requires_grad), average))
        final[network.ENCODER + "embeddings.mask_token"] = weights[network.ENCODER + "embeddings.mask_token"]
        save(os.path.join(a.out, "model.safetensors"), final, g, iterations, a.data)
        stored = {k: t.half().float() for k, t in network.first_group(final, g).items()}
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not everything
        all_of_them = torch.arange(len(data.names), device=a.device)
        for name, picture, window in (("whole pictures", all_of_them, data.whole(all_of_them)),
                                      ("zoomed views", *scoring.zoomed_windows(data, 8 if everything else 3))):
            print(name, scoring.score(stored, g, data, picture, window), flush=True)

    os.makedirs(a.out, exist_ok=True)
    print(f"{len(data.names)} pictures, {len(data.classes)} objects, {sum(t.numel() for t in trained) / 1e6:.2f} M "
          f"weights with {a.groups} groups, ready after {time.time() - started:.1f} s", flush=True)
    replay = recorded(step, optimizer) if cuda and not a.eager else None
    started, done = time.time(), 0
    for done in range(1, a.iterations + 1):
        now = a.lr * min(1.0, done / a.warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done / a.iterations)))
        for group in optimizer.param_groups:
            if cuda:
                group["lr"].fill_(now)           # the recorded graph reads it
            else:
                group["lr"] = now
        if replay:
            value = replay()
        else:
            optimizer.zero_grad(set_to_none=True)
            value = step()
        with torch.no_grad():
            torch._foreach_lerp_(average, [t.detach() for t in trained], 1 - min(0.9995, done / (done + 10)))
        if done % 500 == 0 or done in (1, 20, 100):
            spent = f"{time.time() - started:.1f} s"
            print(f"iteration {done}, loss {value.item():.3f}, {spent}", flush=True)
            if done % 4000 == 0 and done < a.iterations:
                finish(done, everything=False)
            if time.time() - launched > a.stop_after:
                print(f"STOPPED after {done} of {a.iterations} iterations", flush=True)
                break
    if cuda:
        torch.cuda.synchronize()
    print(f"trained {done} iterations of {a.batch} views in {time.time() - started:.1f} s", flush=True)

    finish(done, everything=True)


if __name__ == "__main__":
    main()
