"""What PyTorch needs on the GPU for the same work as bench_postprocess_cuda: sigmoid, top-k, gather, boxes,
interpolate, > 0, then run lengths by pycocotools on the host (or, without pycocotools, up to the masks' copy).

python peer_torch_cuda.py [--calls N] NAME=FOLDER[:HxW] ...

Needs: pip install numpy torch
"""
import argparse
import pathlib
import time

try:
    import numpy as np
    import torch
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install numpy torch")

try:
    from pycocotools import mask as mask_utils
except ImportError:
    mask_utils = None

parser = argparse.ArgumentParser()
parser.add_argument("settings", nargs="+")
parser.add_argument("--calls", type=int, default=60)
args = parser.parse_args()


def run(case, height, width):
    boxes, logits, masks = case
    scores, order = logits.sigmoid().flatten().topk(logits.shape[1])
    keep = scores > 0.5
    scores, order = scores[keep], order[keep]
    query = order // logits.shape[2]
    centre, half = boxes[0, query, :2], boxes[0, query, 2:].clamp(min=0) * 0.5
    size = torch.tensor([width, height], dtype=torch.float32, device="cuda")
    xyxy = torch.cat([(centre - half) * size, (centre + half) * size], 1).clamp(min=0).minimum(size.repeat(2))
    dense = torch.nn.functional.interpolate(masks[:, query], (height, width), mode="bilinear", align_corners=False) > 0
    torch.cuda.synchronize()
    on_gpu = time.perf_counter()
    host = dense[0].cpu().numpy()
    scores.cpu(), xyxy.cpu()
    copied = time.perf_counter()
    rles = [mask_utils.encode(np.asfortranarray(m.view(np.uint8))) for m in host] if mask_utils else []
    return on_gpu, copied, rles, len(host)


print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, pycocotools {'yes' if mask_utils else 'no'}; medians in us")
for setting in args.settings:
    name, rest = setting.split("=", 1)
    parts = rest.split(":")
    height, width = map(int, parts[1].split("x")) if len(parts) > 1 else (1080, 1920)
    if len(parts) > 2 or any(word in name for word in ("boxes", "inference", "dense", "bits", "device")):
        continue  # the plain work, one picture at a time
    folders = sorted(p for p in pathlib.Path(parts[0]).iterdir() if (p / "masks.npy").exists())
    cases = [[torch.from_numpy(np.load(p / f"{n}.npy")).cuda() for n in ("boxes", "logits", "masks")] for p in folders]
    times, survivors = [], 0
    calls = args.calls if len(cases[0][1][0]) < 300 else 6
    for i in range(calls + 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        on_gpu, copied, rles, n = run(cases[i % len(cases)], height, width)
        end = time.perf_counter()
        if i >= 3:
            times.append((on_gpu - start, copied - start, end - start))
            survivors += n
    medians = np.median(np.array(times), axis=0) * 1e6
    print(f"{name:22s} survivors {survivors / calls:6.1f}  dense masks on the GPU {medians[0]:9.1f}  copied {medians[1]:9.1f}"
          f"  encoded {medians[2]:10.1f}")
