"""The post-processing of `rfseg ablate` by PyTorch on the GPU, in the ways that frameworks offer: eager; torch.compile as it
is; torch.compile with fixed shapes (masks of all queries); compiled filter with eager masks of the survivors.

rfseg ablate --save DIR; python ablate_torch_cuda.py [--calls N] [--image-size HxW] DIR/100/case DIR/300/case

Every way's detections are compared with the eager ones first (scores, classes, boxes, pixels). Times are wall times up to
dense masks on the GPU, closed by a synchronisation; `rfseg ablate` goes on to run lengths on the host.

Needs: pip install numpy torch
"""
import argparse
import pathlib
import statistics
import time

try:
    import numpy as np
    import torch
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install numpy torch")

parser = argparse.ArgumentParser()
parser.add_argument("cases", nargs="+", type=pathlib.Path)
parser.add_argument("--calls", type=int, default=100)
parser.add_argument("--image-size", default="720x1280")
args = parser.parse_args()
height, width = map(int, args.image_size.split("x"))
size = torch.tensor([width, height] * 2, dtype=torch.float32, device="cuda")


def candidates(boxes, logits):
    scores, order = logits.sigmoid().flatten().topk(logits.shape[0])
    query = torch.div(order, logits.shape[1], rounding_mode="floor")
    centre, half = boxes[query, :2], boxes[query, 2:].clamp(min=0) * 0.5
    xyxy = (torch.cat([centre - half, centre + half], 1) * size).clamp(min=0).minimum(size)
    return scores, order % logits.shape[1], xyxy, query, scores > 0.5


def dense(masks):
    return torch.nn.functional.interpolate(masks[None], (height, width), mode="bilinear", align_corners=False)[0] > 0


def eager(boxes, logits, masks):
    scores, classes, xyxy, query, keep = candidates(boxes, logits)
    return scores[keep], classes[keep], xyxy[keep], dense(masks[query[keep]])


def all_masks(boxes, logits, masks):
    scores, classes, xyxy, query, keep = candidates(boxes, logits)
    return scores, classes, xyxy, dense(masks[query]), keep


compiled_candidates = torch.compile(candidates)
compiled_all = torch.compile(all_masks, fullgraph=True)


def fixed(boxes, logits, masks):
    scores, classes, xyxy, pixels, keep = compiled_all(boxes, logits, masks)
    return scores[keep], classes[keep], xyxy[keep], pixels[keep]


def hybrid(boxes, logits, masks):
    scores, classes, xyxy, query, keep = compiled_candidates(boxes, logits)
    return scores[keep], classes[keep], xyxy[keep], dense(masks[query[keep]])


ways = {
    "eager": eager,
    "torch.compile as it is": torch.compile(eager),
    "torch.compile, fixed shapes": fixed,
    "filter compiled, survivors eager": hybrid,
}
print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, {height}x{width}, {args.calls} calls, all ways in turn")
for case in args.cases:
    torch._dynamo.reset()
    inputs = [torch.from_numpy(np.load(case / f"{name}.npy")[0]).cuda() for name in ("boxes", "logits", "masks")]
    expected = eager(*inputs)
    times, kernels, wrong = {name: [] for name in ways}, {}, {}
    for name, way in ways.items():
        answer = [way(*inputs) for _ in range(3)][-1]
        same = len(answer[0]) == len(expected[0]) and torch.equal(answer[1], expected[1])
        same = same and torch.allclose(answer[0], expected[0], atol=1e-6) and torch.allclose(answer[2], expected[2], atol=1e-3)
        pixels = int((answer[3] != expected[3]).sum()) if same else -1
        wrong[name] = "" if same and pixels == 0 else f"{pixels} pixels differ" if same else "DETECTIONS DIFFER"
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            way(*inputs)
            torch.cuda.synchronize()
        kernels[name] = sum(event.device_type == torch.autograd.DeviceType.CUDA and "Mem" not in event.name
                            for event in profile.events())
    for call in range(args.calls + 5):
        for name, way in ways.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            way(*inputs)
            torch.cuda.synchronize()
            if call >= 5:
                times[name].append((time.perf_counter() - start) * 1e3)
    print(f"{case}: {inputs[1].shape[0]} queries, {len(expected[0])} detections")
    for name in ways:
        values = sorted(times[name])
        print(f"  {name:34s} p50 {statistics.median(values):8.4f} ms  p90 {values[int(len(values) * 0.9)]:8.4f}"
              f"  kernels {kernels[name]:4d}  {wrong[name]}")
