#!/usr/bin/env python3
"""Compares rfseg's detections with PyTorch's on the same network outputs, on a GPU, and writes goldens.

    torch_grid.py DUMP_PROGRAM FOLDER... [--like rfdetr|inference] [--sizes HxW,...] [--encode N]
    torch_grid.py --goldens OUT_DIR FOLDER [--cases NAME,...]

A FOLDER holds case folders of boxes.npy, logits.npy, masks.npy. PyTorch's way: sigmoid, topk of all pairs, > 0.5,
F.interpolate (bilinear, align_corners=False; antialias=True for inference) on CUDA, > 0, run lengths. Run lengths are
found by torch and compressed by pycocotools; those of every N-th mask (and of all at the first size) are also made by
pycocotools' encode of the dense mask on the host. Demanded: queries, classes, boxes and run-length bytes equal; scores
within 4 units in the last place, and the order as far as scores differ by more. Exit status 1 otherwise.
--goldens writes what PyTorch gives for a few cases, reduced to their surviving queries, as torch_cuda_grid.json and
torch_cuda_grid_*.npy. --device cpu is for trying the script itself: its masks differ in isolated pixels.

Needs: pip install numpy torch pycocotools
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import torch
    from pycocotools import mask as mask_utils
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install numpy torch pycocotools")

SIZES = "480x640,720x1280,1080x1920,2160x3840"
parser = argparse.ArgumentParser()
parser.add_argument("arguments", nargs="+")
parser.add_argument("--like", default="rfdetr")
parser.add_argument("--sizes", default=SIZES)
parser.add_argument("--encode", type=int, default=40)
parser.add_argument("--goldens")
parser.add_argument("--cases", default="")
parser.add_argument("--device", default="cuda")
args = parser.parse_args()
sizes = [tuple(map(int, s.split("x"))) for s in args.sizes.split(",")]


def bits(v):
    return np.asarray(v, np.float32).view(np.int32).astype(np.int64)


def compressed(mask):
    """COCO's compressed counts of a [H, W] bool tensor."""
    height, width = mask.shape
    flat = mask.t().reshape(-1)
    at = (torch.nonzero(flat[1:] != flat[:-1])[:, 0] + 1).cpu().numpy()
    edges = np.concatenate([[0], at, [height * width]])
    counts = np.diff(edges).tolist()
    if bool(flat[0]):
        counts = [0] + counts
    return mask_utils.frPyObjects({"counts": counts, "size": [height, width]}, height, width)["counts"].decode()


def run(boxes, logits, masks, height, width, like, encode):
    """Detections in PyTorch's order, and how many masks were encoded twice."""
    pairs = logits.shape[1] * logits.shape[2]
    scores, order = logits.sigmoid().flatten().topk(min(logits.shape[1], pairs))
    keep = scores > 0.5
    scores, order = scores[keep], order[keep]
    query, label = order // logits.shape[2], order % logits.shape[2]
    size = torch.tensor([width, height], dtype=torch.float32, device=boxes.device)
    centre, extent = boxes[0, query, :2], boxes[0, query, 2:]
    if like == "inference":
        net = torch.tensor([masks.shape[3] * 4, masks.shape[2] * 4], dtype=torch.float32, device=boxes.device)
        scale = torch.tensor([masks.shape[3] * 4 / width, masks.shape[2] * 4 / height], dtype=torch.float32,
                             device=boxes.device)
        half = 0.5 * extent
        xyxy = torch.cat([(centre - half) * net / scale, (centre + half) * net / scale], 1)
        xyxy = torch.minimum(xyxy.clamp(min=0), size.repeat(2)).round()
    else:
        half = 0.5 * extent.clamp(min=0)
        xyxy = torch.cat([(centre - half) * size, (centre + half) * size], 1)
        xyxy = torch.minimum(xyxy.clamp(min=0), size.repeat(2))
    text, twice = {}, 0
    for q in dict.fromkeys(query.tolist()):
        values = torch.nn.functional.interpolate(masks[:, q:q + 1], (height, width), mode="bilinear",
                                                 align_corners=False, antialias=like == "inference")
        mask = values[0, 0] > 0
        text[q] = compressed(mask)
        if encode(q):
            dense = mask.cpu().numpy().view(np.uint8)
            assert mask_utils.encode(np.asfortranarray(dense))["counts"].decode() == text[q]
            decoded = mask_utils.decode({"counts": text[q].encode(), "size": [height, width]})
            assert np.array_equal(decoded, dense)
            twice += 1
    items = [dict(query=q, label=c, score=s, box=b, counts=text[q])
             for q, c, s, b in zip(query.tolist(), label.tolist(), scores.cpu().numpy(), xyxy.cpu().numpy())]
    return items, twice


def load(folder):
    return [torch.from_numpy(np.load(folder / f"{n}.npy").astype(np.float32)).to(args.device)
            for n in ("boxes", "logits", "masks")]


def write_goldens(out, folder):
    names = args.cases.split(",")
    golden = {"written_by": f"torch {torch.__version__} on {torch.cuda.get_device_name()}",
              "source": "masks drawn from annotations of COCO val2017 (Creative Commons Attribution 4.0) with noise",
              "cases": []}
    for k, name in enumerate(names):
        boxes, logits, masks = load(folder / name)
        keep = torch.nonzero(logits[0].amax(1) > 0)[:, 0]
        tensors = [t[:, keep].half().float() for t in (boxes, logits, masks)]
        for t, kind in zip(tensors, ("boxes", "logits", "masks")):
            np.save(out / f"torch_cuda_grid_{k}_{kind}.npy", t.cpu().numpy().astype(np.float16))
        for like in ("rfdetr", "inference"):
            for height, width in sizes:
                items, _ = run(*tensors, height, width, like, lambda q: True)
                golden["cases"].append(dict(
                    inputs=k, image=name, like=like, height=height, width=width,
                    items=[dict(query=i["query"], class_id=i["label"], score=float(i["score"]),
                                box=[float(v) for v in i["box"]], counts=i["counts"]) for i in items]))
    (out / "torch_cuda_grid.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(f"{len(golden['cases'])} golden calls")


def compare(program, folders):
    failed = detections = calls = twice = 0
    worst = 0
    for folder in folders:
        with tempfile.TemporaryDirectory() as scratch:
            dump = pathlib.Path(scratch) / "ours.jsonl"
            backend = "cuda" if args.device == "cuda" else "cpu"
            subprocess.run([program, backend, args.like, folder, dump] + args.sizes.split(","), check=True)
            ours = {}
            for line in dump.read_text().splitlines():
                record = json.loads(line)
                ours[record["case"], record["size"]] = record["items"]
        for case in sorted(p for p in pathlib.Path(folder).iterdir() if (p / "masks.npy").exists()):
            tensors = load(case)
            for k, (height, width) in enumerate(sizes):
                calls += 1
                theirs, again = run(*tensors, height, width, args.like,
                                    lambda q: k == 0 or (q + calls) % args.encode == 0)
                twice += again
                mine = ours.pop((case.name, f"{height}x{width}"))
                where = f"{folder}/{case.name} at {height}x{width}"
                by_pair = {(i["query"], i["label"]): i for i in theirs}
                if {(i["query"], i["class"]) for i in mine} != set(by_pair) or len(mine) != len(theirs):
                    print(f"{where}: {len(mine)} detections, torch has {len(theirs)}, or others")
                    failed += 1
                    continue
                for position, item in enumerate(mine):
                    detections += 1
                    other = by_pair[item["query"], item["class"]]
                    ulps = abs(item["score"] - int(bits(other["score"])))
                    place = abs(int(bits(other["score"])) - int(bits(theirs[position]["score"])))
                    worst = max(worst, ulps)
                    wrong = [n for n, bad in (
                        ("score", ulps > 4), ("order", place > 4),
                        ("box", item["box"] != bits(other["box"] + 0.0).tolist()),
                        ("mask", item["counts"] != other["counts"])) if bad]
                    if wrong:
                        failed += 1
                        if failed < 20:
                            print(f"{where}, query {item['query']}: {', '.join(wrong)}")
        assert not ours
    print(f"torch {torch.__version__}, {args.like}: {calls} calls, {detections} detections, {failed} differ; scores within "
          f"{worst} units in the last place; {twice} masks also by pycocotools' encode")
    return failed == 0 and detections > 0


if args.goldens:
    write_goldens(pathlib.Path(args.goldens), pathlib.Path(args.arguments[0]))
else:
    sys.exit(0 if compare(args.arguments[0], args.arguments[1:]) else 1)
