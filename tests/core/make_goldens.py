"""Writes data/coco_rle.json: what pycocotools and NumPy say about random masks and polygons.

Run with pycocotools 2.0.11 and NumPy: python make_goldens.py

Needs: pip install numpy pycocotools
"""

import json
import pathlib

try:
    import numpy as np
    from pycocotools import mask as api
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install numpy pycocotools")

rng = np.random.default_rng(20240607)


def run_lengths(dense):
    """Column-major runs that start with background, by NumPy alone."""
    flat = dense.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0] + counts if flat[0] else counts


def random_mask(height, width, kind):
    if kind == "noise":
        return (rng.random((height, width)) < rng.random()).astype(np.uint8)
    dense = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, 4)):
        y0, y1 = np.sort(rng.integers(0, height + 1, 2))
        x0, x1 = np.sort(rng.integers(0, width + 1, 2))
        dense[y0:y1, x0:x1] = 1
    return dense


def describe(dense):
    rle = api.encode(np.asfortranarray(dense))
    return {
        "size": list(dense.shape),
        "bits": np.packbits(dense.reshape(-1)).tobytes().hex(),
        "runs": run_lengths(dense),
        "counts": rle["counts"].decode(),
        "area": int(api.area(rle)),
        "bbox": api.toBbox(rle).tolist(),
    }


masks = []
for height, width in [(1, 1), (1, 7), (7, 1), (3, 5), (64, 65), (40, 3)]:
    masks += [np.zeros((height, width), np.uint8), np.ones((height, width), np.uint8)]
    one = np.zeros((height, width), np.uint8)
    one[rng.integers(height), rng.integers(width)] = 1
    masks.append(one)
for _ in range(40):
    height, width = rng.integers(1, 40, 2)
    masks.append(random_mask(height, width, rng.choice(["noise", "boxes"])))
masks.append(random_mask(97, 131, "boxes"))
masks.append(random_mask(200, 300, "boxes"))

groups = []
for i in range(30):
    height, width = rng.integers(1, 30, 2)
    dense = [random_mask(height, width, "boxes") for _ in range(1 + i % 4)]
    rles = [api.encode(np.asfortranarray(m)) for m in dense]
    crowd = [int(c) for c in rng.integers(0, 2, len(dense))]
    groups.append({
        "size": [int(height), int(width)],
        "counts": [r["counts"].decode() for r in rles],
        "union": api.merge(rles)["counts"].decode(),
        "intersection": api.merge(rles, intersect=True)["counts"].decode(),
        "crowd": crowd,
        "iou": api.iou(rles, rles, crowd).tolist(),
    })

polygons = []
for i in range(240):
    height, width = rng.integers(1, 60, 2)
    points = int(rng.integers(3, 9))
    scale = [1.0, 1.0, 1.6, 3.0][i % 4]
    xy = (rng.random((points, 2)) - 0.5) * scale + 0.5
    xy = xy * [width, height]
    if i % 3 == 0:
        xy = np.round(xy)  # corners on the pixel grid, vertical and horizontal edges
    elif i % 3 == 1:
        xy = np.round(xy, 2)
    if i % 10 == 0:
        xy[1] = xy[0]  # an edge without length
    polygons.append((height, width, xy.reshape(-1).tolist()))
for i in range(6):  # large pictures, long edges, far outside
    xy = np.round((rng.random((12, 2)) - 0.3) * [1500, 1200], 1).reshape(-1).tolist()
    polygons.append((480, 640, xy))
polygons.append((5, 5, [0, 0, 5, 0, 5, 5, 0, 5]))
polygons.append((5, 5, [-10, -10, 30, -10, 30, 30, -10, 30]))
polygons.append((5, 5, [2, 2, 2, 2, 2, 2]))

rasterised = []
for height, width, xy in polygons:
    rle = api.frPyObjects([xy], int(height), int(width))[0]
    rasterised.append({"size": [int(height), int(width)], "xy": xy,
                       "counts": rle["counts"].decode()})

out = {"masks": [describe(m) for m in masks], "groups": groups, "polygons": rasterised}
path = pathlib.Path(__file__).parent / "data" / "coco_rle.json"
path.parent.mkdir(exist_ok=True)
text = "{\n" + ",\n".join(
    f'"{key}": [\n' + ",\n".join(json.dumps(x, separators=(",", ":")) for x in value) + "\n]"
    for key, value in out.items()) + "\n}\n"
path.write_text(text)
print(len(text), "bytes")
