#!/usr/bin/env python3
"""Chooses the colours of classes: prints the table of src/output/class_colors.cpp.

    scripts/choose_class_colors.py INSTANCES.json ...

A sum over pairs of classes of weight / distance^6 is minimised, one class at a time, over vivid
colours of sRGB; the distance is CIELAB's with lightness at 0.8. Weights come from how often two
classes appear in one picture of the given COCO files, and from what holds for all of COCO: classes
of one supercategory appear together, people appear with everything. The table in the program came
from assets/demo/instances.json and two more extracts of COCO, 250 pictures in all.

Needs: pip install numpy
"""
import itertools
import json
import math
import sys

try:
    import numpy as np
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install numpy")

IDS = 96
FIXED = {0: (82, 169, 254), 1: (233, 81, 71), 2: (81, 218, 167)}  # as the first version had them


def oklch_to_linear(lightness, chroma, hue):
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    s = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return np.array([4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
                     -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
                     -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s])


def encode(linear):
    return np.round(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)).astype(int)


def lab(rgb):
    c = np.asarray(rgb) / 255
    c = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
    x = c @ matrix.T / np.array([0.95047, 1, 1.08883])
    f = np.where(x > 216 / 24389, np.cbrt(x), (24389 / 27 * x + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def vivid_colors():
    grid = itertools.product(np.arange(0.56, 0.90, 0.02), np.arange(0.10, 0.32, 0.02), range(0, 360, 5))
    linear = [oklch_to_linear(*point) for point in grid]
    return np.unique([encode(c) for c in linear if c.min() >= 0 and c.max() <= 1], axis=0)


def pair_weights(files):
    weights = np.full((IDS, IDS), 0.02)
    together = np.zeros((IDS, IDS))
    groups = {}

    def add(a, b, weight):
        if max(a, b) < IDS and a != b:
            weights[a, b] += weight
            weights[b, a] += weight

    for file in files:
        data = json.load(open(file))
        pictures = {}
        for entry in data["annotations"]:
            pictures.setdefault(entry["image_id"], set()).add(entry["category_id"])
        for classes in pictures.values():
            for a, b in itertools.combinations(sorted(c for c in classes if c < IDS), 2):
                together[a, b] += 1
        groups.update({c["id"]: c["supercategory"] for c in data["categories"] if "supercategory" in c})
    for a, b in itertools.combinations(range(IDS), 2):
        if together[a, b]:
            add(a, b, 0.5 + math.log2(1 + together[a, b]))
        if b - a <= 4:
            add(a, b, 0.15)
        if b < 16:
            add(a, b, 0.3)
    for a, b in itertools.combinations(sorted(groups), 2):
        add(a, b, 0.2 * (groups[a] == groups[b]) + 1.0 * (a == 1))
    np.fill_diagonal(weights, 0)
    return weights


def choose(candidates, weights, tries=6):
    points = lab(candidates) * [0.8, 1, 1]
    locked = {i: int(np.abs(candidates - np.array(c)).sum(1).argmin()) for i, c in FIXED.items()}
    random = np.random.default_rng(1)

    def costs(at):
        """Of every colour beside the one `at`."""
        return np.maximum(np.linalg.norm(points - points[at], axis=1), 1) ** -6

    best_cost, best = math.inf, None
    for _ in range(tries):
        chosen = random.integers(0, len(candidates), IDS)
        chosen[list(locked)] = list(locked.values())
        beside = np.stack([costs(at) for at in chosen], 1)  # [colour, class]
        for _ in range(40):
            changed = False
            for i in random.permutation(IDS):
                at = int((beside @ weights[i]).argmin())
                if i not in locked and at != chosen[i]:
                    changed, chosen[i], beside[:, i] = True, at, costs(at)
            if not changed:
                break
        cost = (weights * beside[chosen]).sum()
        if cost < best_cost:
            best_cost, best = cost, chosen.copy()
    colors = candidates[best]
    for i, color in FIXED.items():
        colors[i] = color
    return colors


if __name__ == "__main__":
    colors = choose(vivid_colors(), pair_weights(sys.argv[1:]))
    for row in colors.reshape(-1, 8, 3):
        print("    " + " ".join("0x%02x%02x%02x," % tuple(c) for c in row))
