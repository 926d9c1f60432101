"""What PyTorch needs on the CPU, one thread, for the same work as bench_postprocess: sigmoid, top-k,
gather, boxes, interpolate, > 0, pycocotools' encode.

python peer_torch.py CASES_FOLDER [HxW] [--cases N]

Needs: pip install numpy torch pycocotools
"""
import argparse
import pathlib
import time

try:
    import numpy as np
    import torch
    from pycocotools import mask as mask_utils
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install numpy torch pycocotools")

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("size", nargs="?", default="1080x1920")
parser.add_argument("--cases", type=int, default=20)
args = parser.parse_args()
height, width = map(int, args.size.split("x"))
torch.set_num_threads(1)
folders = sorted(p for p in pathlib.Path(args.folder).iterdir() if (p / "masks.npy").exists())[:args.cases]
cases = [[torch.from_numpy(np.load(p / f"{n}.npy")) for n in ("boxes", "logits", "masks")] for p in folders]


def run(boxes, logits, masks):
    scores, order = logits.sigmoid().flatten().topk(logits.shape[1])
    keep = scores > 0.5
    scores, order = scores[keep], order[keep]
    query = order // logits.shape[2]
    centre, half = boxes[0, query, :2], boxes[0, query, 2:].clamp(min=0) * 0.5
    size = torch.tensor([width, height], dtype=torch.float32)
    xyxy = torch.cat([(centre - half) * size, (centre + half) * size], 1).clamp(min=0).minimum(size.repeat(2))
    rles = []
    for q in query.tolist():
        m = torch.nn.functional.interpolate(masks[:, q:q + 1], (height, width), mode="bilinear", align_corners=False)
        rles.append(mask_utils.encode(np.asfortranarray((m[0, 0] > 0).numpy().view(np.uint8))))
    return xyxy, rles


run(*cases[0])
times, survivors, size = [], 0, 0
for case in cases:
    start = time.perf_counter(), time.process_time()
    _, rles = run(*case)
    times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    survivors += len(rles)
    size += sum(len(r["counts"]) for r in rles)
wall, cpu = (sorted(t[i] for t in times)[len(times) // 2] * 1e3 for i in (0, 1))
print(f"torch {torch.__version__}, {height}x{width}: median {wall:.2f} ms wall, {cpu:.2f} ms CPU; "
      f"{survivors / len(cases):.1f} survivors, {size / len(cases) / 1000:.2f} KB")
