"""Writes goldens.json: what independent code says about the scenes that golden_test.cpp builds.

python make_goldens.py

Nothing here calls rfseg. Interpolation is done in numpy with fused multiply-adds emulated exactly
(round to odd in float64, then to float32), run lengths are pycocotools', contours OpenCV's; torch's
own masks (CPU) are stored beside some cases and differ from CUDA's in isolated border pixels.
Scenes come from SplitMix64 and integer arithmetic, the same here and in golden_test.cpp.

Needs: pip install numpy torch pycocotools opencv-python-headless
"""
import json
import math
import pathlib

try:
    import cv2
    import numpy as np
    import torch
    from pycocotools import mask as mask_utils
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install numpy torch pycocotools opencv-python-headless")

f32 = np.float32


class Random:
    def __init__(self, seed):
        self.state = seed

    def next(self):
        m = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & m
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & m
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & m
        return z ^ (z >> 31)

    def range(self, low, high):
        return low + self.next() % (high - low + 1)


def make_scene(seed, q, k, rows, cols, quantum):
    """Blobs in 1/1024, rounded down to multiples of `quantum`/1024; see golden_scene in C++."""
    r = Random(seed)
    logits = np.array([r.range(-3000, 2000) // 8 * 8 for _ in range(q * k)], np.int64).reshape(q, k)
    boxes = np.array([r.range(0, 1100) for _ in range(q * 4)], np.int64).reshape(q, 4)
    masks = np.empty((q, rows, cols), np.int64)
    for i in range(q):
        cy, cx = r.range(0, 16 * rows), r.range(0, 16 * cols)
        a, b, top = r.range(1, 12), r.range(1, 12), r.range(500, 12000)
        for y in range(rows):
            for x in range(cols):
                dy, dx = 16 * y - cy, 16 * x - cx
                v = top - (a * dy * dy + b * dx * dx) // 16
                v = min(max(v, -14000), 12000) + r.range(-300, 300)
                if seed >= 400:  # small integers, which cancel out but for the rounding
                    v = 1024 * r.range(-3, 3)
                masks[i, y, x] = v // quantum * quantum
    return [(v.astype(np.float64) / 1024).astype(f32) for v in (boxes, logits, masks)]


def fma(a, b, c):
    """float32 fused multiply-add, one rounding: a product of float32 is exact in float64."""
    p = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    p, c = np.broadcast_arrays(p, np.asarray(c, np.float64))
    s = p + c
    t = s - p
    error = (p - (s - t)) + (c - t)  # two-sum: s + error is exact
    bits = s.view(np.int64).copy()
    # Round to odd: a sum that is not exact and has an even last bit moves one step towards the error.
    step = (error != 0) & (bits & 1 == 0)
    toward = np.where((error > 0) == (s > 0), 1, -1)
    return np.where(step, bits + toward, bits).view(np.float64).astype(f32)


def plain_axis(n_in, n_out, scale=None, offset=f32(-0.5)):
    s = f32(n_in) / f32(n_out) if scale is None else scale
    h = np.arange(n_out).astype(f32) + f32(0.5)
    r = np.maximum(f32(0), fma(s, h, offset))
    i0 = r.astype(np.int64)
    i1 = i0 + (i0 < n_in - 1)
    w1 = r - i0.astype(f32)
    return i0, i1, f32(1) - w1, w1


def plain_resample(v, ay, ax):
    (y0, y1, wy0, wy1), (x0, x1, wx0, wx1) = ay, ax
    a = fma(wx0[None], v[:, x0], wx1[None] * v[:, x1])
    return fma(wy0[:, None], a[y0], wy1[:, None] * a[y1])


def antialias_axis(n_in, n_out):
    s = f32(n_in) / f32(n_out)
    support = max(f32(1), s)
    inverse = f32(1.0 / float(s)) if s >= 1 else f32(1)
    axis = []
    for o in range(n_out):
        h = f32(o) + f32(0.5)
        lo = max(0, int(fma(s, h, -support) + f32(0.5)))
        hi = min(n_in, int(fma(s, h, support) + f32(0.5)))
        m = fma(-s, h, f32(lo))
        w = [max(f32(0), f32(1) - abs((f32(j) + m + f32(0.5)) * inverse)) for j in range(hi - lo)]
        total = f32(0)
        for x in w:
            total = f32(total + x)
        axis.append((lo, [f32(x / total) for x in w]))
    return axis


def antialias_pass(v, axis):
    """Along the last axis."""
    out = np.empty(v.shape[:-1] + (len(axis),), f32)
    for o, (lo, w) in enumerate(axis):
        t = v[..., lo] * w[0]
        for j in range(1, len(w)):
            t = fma(v[..., lo + j], w[j], t)
        out[..., o] = t
    return out


def antialias_resample(v, height, width):
    if v.shape == (height, width):
        return v
    rows = antialias_pass(v, antialias_axis(v.shape[1], width))
    return antialias_pass(np.ascontiguousarray(rows.T), antialias_axis(v.shape[0], height)).T


def target(g):
    return (g["intermediate_height"] or g["network_height"],
            g["intermediate_width"] or g["network_width"])


def mask_rfdetr(v, g):
    """docs/conventions.md: sampled where the network saw it, background where it saw nothing."""
    out = np.zeros((g["original_height"], g["original_width"]), np.uint8)
    th, tw = target(g)
    axes, spans = [], []
    for cells, t, size, before, after in (
            (v.shape[0], th, g["crop_height"], g["pad_top"], g["pad_bottom"]),
            (v.shape[1], tw, g["crop_width"], g["pad_left"], g["pad_right"])):
        placed = t - before - after
        scale = f32(np.float64(cells * placed) / np.float64(t * size))
        offset = f32(before * (cells / t) - 0.5)
        seen = [o for o in range(size) if 0 <= (2 * o + 1) * placed + 2 * before * size < 2 * t * size]
        axes.append([a[seen] for a in plain_axis(cells, size, scale, offset)] if seen else None)
        spans.append(seen)
    if not spans[0] or not spans[1]:
        return out
    values = plain_resample(v, *axes)
    out[g["crop_y"] + spans[0][0]:g["crop_y"] + spans[0][-1] + 1,
        g["crop_x"] + spans[1][0]:g["crop_x"] + spans[1][-1] + 1] = values > 0
    return out


def mask_inference(v, g):
    rows, cols = v.shape
    th, tw = target(g)
    pads = [round(rows / th * g["pad_top"]), round(rows / th * g["pad_bottom"]),
            round(cols / tw * g["pad_left"]), round(cols / tw * g["pad_right"])]
    grow = [max(0, -p) for p in pads]
    v = np.pad(v, ((grow[0], grow[1]), (grow[2], grow[3])))
    top, bottom, left, right = (max(0, p) for p in pads)
    v = v[top:v.shape[0] - bottom, left:v.shape[1] - right]
    values = antialias_resample(v, g["crop_height"], g["crop_width"])
    out = np.zeros((g["original_height"], g["original_width"]), np.uint8)
    out[g["crop_y"]:g["crop_y"] + g["crop_height"], g["crop_x"]:g["crop_x"] + g["crop_width"]] = values > 0
    return out


def box(b, g, like):
    b = [f32(x) for x in b]
    th, tw = target(g)
    out = []
    for side in range(4):
        d = side % 2
        t, size, before, after, crop, limit, scale = (
            (tw, g["crop_width"], g["pad_left"], g["pad_right"], g["crop_x"], g["original_width"], g["scale_x"]),
            (th, g["crop_height"], g["pad_top"], g["pad_bottom"], g["crop_y"], g["original_height"], g["scale_y"]))[d]
        wh = b[2 + d] if like == "inference" else max(f32(0), b[2 + d])
        half = f32(0.5) * wh
        v = b[d] - half if side < 2 else b[d] + half
        if like == "inference":
            v = (v * f32(t) - f32(before)) / f32(scale) + f32(crop)
            out.append(float(np.rint(np.clip(v, f32(0), f32(limit)))))
        else:
            placed = t - before - after
            v = v * f32(t * size / placed) + f32(crop - before * (size / placed))
            out.append(float(np.clip(v, f32(0), f32(limit))))
    return out


def encode(m):
    return mask_utils.encode(np.asfortranarray(m))["counts"].decode()


def stretch(h, w, net):
    return dict(original_height=h, original_width=w, crop_x=0, crop_y=0, crop_width=w, crop_height=h,
                pad_left=0, pad_top=0, pad_right=0, pad_bottom=0, scale_x=net[1] / w, scale_y=net[0] / h,
                intermediate_height=0, intermediate_width=0, network_height=net[0], network_width=net[1])


def static_crop(g, x, y, w, h):
    return dict(g, crop_x=x, crop_y=y, crop_width=w, crop_height=h, scale_x=g["network_width"] / w,
                scale_y=g["network_height"] / h)


def letterbox(g, dh, dw):
    w, h = g["crop_width"], g["crop_height"]
    scale = min(dw / w, dh / h)
    nw, nh = int(w * scale), int(h * scale)
    left, top = int((dw - nw) / 2), int((dh - nh) / 2)
    return dict(g, intermediate_height=dh, intermediate_width=dw, scale_x=scale, scale_y=scale, pad_left=left,
                pad_top=top, pad_right=dw - nw - left, pad_bottom=dh - nh - top)


def center_crop(g, dh, dw):
    def axis(size, d):
        before = (d - size) // 2 if size < d else -((size - d) // 2)
        return before, d - size - before
    left, right = axis(g["crop_width"], dw)
    top, bottom = axis(g["crop_height"], dh)
    return dict(g, intermediate_height=dh, intermediate_width=dw, scale_x=1.0, scale_y=1.0, pad_left=left,
                pad_top=top, pad_right=right, pad_bottom=bottom)


def torch_mask(v, g, like):
    t = torch.from_numpy(v)[None, None]
    r = torch.nn.functional.interpolate(t, (g["original_height"], g["original_width"]), mode="bilinear",
                                        align_corners=False, antialias=like == "inference")
    return (r[0, 0] > 0).numpy().astype(np.uint8)


def case(name, seed, q, k, rows, cols, like, g, quantum=1, threshold=0.5, num_select=300, max_detections=300,
         class_map=(), class_thresholds=(), with_torch=False):
    boxes, logits, masks = make_scene(seed, q, k, rows, cols, quantum)
    flat = sorted(range(q * k), key=lambda i: (-float(logits.flat[i]), i))[:num_select]
    found = []
    for i in flat:
        query, column = divmod(i, k)
        class_id = column if not class_map else class_map[column] if column < len(class_map) else -1
        score = 1 / (1 + math.exp(-float(logits.flat[i])))
        limit = class_thresholds[class_id] if 0 <= class_id < len(class_thresholds) else threshold
        if class_id < 0 or not score > limit or len(found) == max_detections:
            continue
        m = (mask_inference if like == "inference" else mask_rfdetr)(masks[query], g)
        d = dict(query=query, class_id=class_id, score=score, box=box(boxes[query], g, like), counts=encode(m))
        if with_torch:
            other = torch_mask(masks[query], g, like)
            different = int((other != m).sum())
            assert different <= max(2, m.size // 2000), (name, different)
            d["torch"] = encode(other)
        found.append(d)
    return dict(name=name, seed=seed, queries=q, classes=k, rows=rows, columns=cols, quantum=quantum, like=like,
                threshold=threshold, num_select=num_select, max_detections=max_detections, class_map=list(class_map),
                class_thresholds=list(class_thresholds), geometry=g, detections=found)


def make_cases():
    cases = []
    for like in ("rfdetr", "inference"):
        sizes = [(78, 78, 1080, 1920, 2), (78, 78, 480, 640, 5), (78, 78, 57, 100, 6), (78, 78, 13, 9, 6),
                 (20, 31, 333, 200, 6), (31, 20, 31, 20, 6), (31, 20, 31, 47, 6), (1, 1, 5, 7, 4), (5, 3, 1, 1, 6),
                 (9, 9, 1, 300, 4), (40, 40, 39, 41, 6), (17, 17, 16, 40, 6),
                 (8, 8, 24, 40, 12), (7, 10, 77, 90, 12)]
        for n, (rows, cols, h, w, q) in enumerate(sizes):
            g = stretch(h, w, (4 * rows, 4 * cols))
            with_torch = n in (1, 2, 3, 4, 6)
            cases.append(case(f"{like} {rows}x{cols} to {h}x{w}", n, q, 3, rows, cols, like, g, with_torch=with_torch))
            if n > 2:
                cases.append(case(f"{like} {rows}x{cols} to {h}x{w} quantised", n + 100, q, 3, rows, cols, like, g,
                                  quantum=1024))
        g = stretch(90, 160, (96, 96))
        places = {
            "letterbox": letterbox(g, 96, 96), "letterbox odd": letterbox(g, 75, 101),
            "letterbox tall": letterbox(stretch(211, 50, (96, 96)), 128, 128),
            "centre crop": center_crop(g, 64, 64), "centre crop wider": center_crop(g, 70, 200),
            "centre crop odd": center_crop(stretch(91, 157, (96, 96)), 60, 80),
            "centre crop padded": center_crop(g, 200, 300), "static crop": static_crop(g, 31, 17, 77, 53),
            "static crop at the origin": static_crop(g, 0, 0, 77, 53),
            "letterbox by half cells": letterbox(stretch(76, 96, (96, 96)), 96, 96),
            "centre crop by half cells": center_crop(stretch(116, 136, (96, 96)), 96, 96),
            "static crop and letterbox": letterbox(static_crop(g, 31, 17, 77, 53), 96, 96),
            "static crop and centre crop": center_crop(static_crop(g, 31, 17, 77, 53), 60, 60)}
        for n, (name, place) in enumerate(places.items()):
            cases.append(case(f"{like} {name}", 200 + n, 5, 3, 24, 24, like, place))
            cases.append(case(f"{like} {name} quantised", 220 + n, 4, 3, 24, 24, like, place, quantum=1024))
    for like in ("rfdetr", "inference"):
        for n, (h, w) in enumerate([(24, 40), (40, 24), (56, 88)]):
            cases.append(case(f"{like} small integers to {h}x{w}", 400 + n, 10, 1, 8, 8, like, stretch(h, w, (32, 32)),
                              quantum=1024, threshold=-1.0))
    g = stretch(30, 40, (32, 32))
    cases.append(case("class map, ties by flat index", 300, 20, 4, 8, 8, "rfdetr", g, threshold=0.3,
                      class_map=(2, -1, 0), num_select=40))
    cases.append(case("thresholds by class, cap", 301, 20, 4, 8, 8, "rfdetr", g, class_thresholds=(0.2, 0.7, 0.9),
                      max_detections=9))
    cases.append(case("everything selected", 302, 6, 4, 8, 8, "rfdetr", g, threshold=-1.0, num_select=13))
    return cases


def contour_mask(seed):
    """See contour_mask in golden_test.cpp."""
    r = Random(seed)
    h, w, kind = r.range(1, 40), r.range(1, 40), r.range(0, 5)
    m = np.zeros((h, w), np.uint8)
    cy, cx, step = r.range(0, h), r.range(0, w), r.range(3, 9)
    for y in range(h):
        for x in range(w):
            n = r.range(0, 99)
            d = (y - cy) ** 2 + (x - cx) ** 2
            m[y, x] = (n < 50, n < 15, n < 85, d // step ** 2 % 2 == 0, math.isqrt(d) % step < 2, d < 150 or n < 3)[kind]
    return m


def polygons(m):
    return [c.reshape(-1).tolist() for c in cv2.findContours(m, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]]


def fnv(numbers):
    h = 0xCBF29CE484222325
    for n in numbers:
        h = ((h ^ n) * 0x100000001B3) & ((1 << 64) - 1)
    return h


def filled(p, shape):
    """Each polygon filled with its border, as cv2.fillPoly does, and their union."""
    again = np.zeros(shape, np.uint8)
    for x in p:
        cv2.fillPoly(again, [np.array(x).reshape(-1, 2)], 1)
    return again


def make_contours():
    hashes, fills, explicit = [], [], []
    for seed in range(600):
        m = contour_mask(seed)
        p = polygons(m)
        hashes.append(str(fnv([m.size, int(m.sum()), len(p)] + [n for c in p for n in [len(c)] + c])))
        fills.append(str(fnv(filled(p, m.shape).reshape(-1).tolist())))
        if seed < 60 and m.size < 250:
            explicit.append(dict(seed=seed, counts=encode(m), polygons=p))
    return dict(hashes=hashes, fills=fills, explicit=explicit)


def report_polygon_overlap(cases):
    """How well re-rasterised polygons cover the masks: by cv2.fillPoly and by pycocotools."""
    fill, coco = [], []
    for c in cases:
        g = c["geometry"]
        for d in c["detections"]:
            m = mask_utils.decode({"size": [g["original_height"], g["original_width"]], "counts": d["counts"].encode()})
            if m.sum() <= 100:
                continue
            p = polygons(m)
            iou = lambda a: float((a & m).sum() / (a | m).sum())
            fill.append((iou(filled(p, m.shape)), int(m.sum())))
            rings = [x for x in p if len(x) >= 6]
            if not rings:
                continue
            r = mask_utils.merge(mask_utils.frPyObjects(rings, *m.shape))
            coco.append((iou(mask_utils.decode(r)), m.sum()))
    print("IoU by fillPoly: worst", min(fill), "by frPyObjects: worst", min(coco), "median", sorted(coco)[len(coco) // 2])


if __name__ == "__main__":
    cases = make_cases()
    report_polygon_overlap(cases)
    out = pathlib.Path(__file__).with_name("goldens.json")
    out.write_text(json.dumps(dict(cases=cases, contours=make_contours()), separators=(",", ":")) + "\n")
    print(len(cases), "cases,", sum(len(c["detections"]) for c in cases), "detections,", out.stat().st_size, "bytes")
