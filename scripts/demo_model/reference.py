"""From a picture to detections as rfdetr 1.11.2's predict() gives them, in numpy and PyTorch.

Interpolation is torch's CUDA result bit for bit, which torch's CPU path is not on every machine:
plain bilinear, align_corners=False, first product fused, second rounded alone. (A fused multiply-
add is computed in float64 here, where the product of two float32 is exact.)
"""

import numpy as np
import torch
from pycocotools import mask as coco_mask

from . import network, views

f32, f64 = np.float32, np.float64


def _axis(size, target):
    scale = f32(size) / f32(target)
    at = (f64(scale) * (np.arange(target) + 0.5) - 0.5).astype(f32)
    at = np.maximum(at, f32(0))
    low = at.astype(np.int64)
    high = low + (low < size - 1)
    upper = at - low.astype(f32)
    return low, high, f32(1) - upper, upper


def _mix(w0, a, w1, b):
    second = (w1 * b).astype(f32)
    return (w0.astype(f64) * a.astype(f64) + second).astype(f32)


def bilinear(image, height, width):
    """float32 [h, w] or [h, w, C] -> float32 [height, width(, C)]."""
    y0, y1, v0, v1 = _axis(image.shape[0], height)
    x0, x1, u0, u1 = _axis(image.shape[1], width)
    tail = (None,) * (image.ndim - 2)
    u0, u1 = (u[(None, slice(None), *tail)] for u in (u0, u1))
    v0, v1 = (v[(slice(None), None, *tail)] for v in (v0, v1))
    top = _mix(u0, image[y0][:, x0], u1, image[y0][:, x1])
    bottom = _mix(u0, image[y1][:, x0], u1, image[y1][:, x1])
    return _mix(v0, top, v1, bottom)


def preprocess(pixels, resolution):
    """uint8 [H, W, 3] -> normalised float32 [1, 3, R, R]."""
    x = bilinear(pixels.astype(f32) / f32(255), resolution, resolution)
    x = (x - np.array(views.MEAN, f32)) / np.array(views.STD, f32)
    return torch.from_numpy(x).permute(2, 0, 1)[None].contiguous()


def load_weights(path, g):
    from safetensors.torch import load_file
    return {key: tensor.float() for key, tensor in load_file(path).items()}


def detect(w, g, pixels, threshold):
    """[{category_id, score, box (x1, y1, x2, y2), segmentation (RLE)}], best first.

    The best Q of all Q x K pairs (lower pair first at equal scores), then score > threshold.
    """
    height, width = pixels.shape[:2]
    boxes, logits, masks = (t[0].numpy() for t in network.predict(w, g, preprocess(pixels, g.resolution)))
    scores = torch.from_numpy(logits).sigmoid().numpy().reshape(-1)
    order = np.argsort(-scores, kind="stable")[:g.queries]
    found = []
    for pair in order[scores[order] > threshold]:
        query, label = divmod(int(pair), g.classes)
        cx, cy, bw, bh = boxes[query]
        half = np.maximum(np.array([bw, bh], f32), 0) * f32(0.5)
        box = np.array([cx - half[0], cy - half[1], cx + half[0], cy + half[1]], f32)
        limit = np.array([width, height, width, height], f32)
        box = np.clip(box * limit, 0, limit)
        mask = bilinear(masks[query], height, width) > 0
        runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        found.append({"category_id": label, "score": float(scores[pair]), "box": [float(v) for v in box],
                      "segmentation": {"size": [height, width], "counts": runs["counts"].decode()}})
    return found
