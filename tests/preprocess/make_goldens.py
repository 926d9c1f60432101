"""Writes data/resize_goldens.txt: checksums of resized and normalised pictures.

Pillow (pil12 and pil13: the pass orders of 12.3 and 13.0), OpenCV (cv, letterbox, crop) and numpy emulations of the float32 arithmetic of torch's
CUDA kernels (bilinear, antialias) are the references.
With --torch the emulations are also compared with torch: on a CUDA device bit for bit.

Needs: pip install numpy pillow opencv-python-headless
"""

import sys
import zlib
from pathlib import Path

try:
    import cv2
    import numpy as np
    import PIL
    from PIL import Image
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install numpy pillow opencv-python-headless")

F = np.float32
MEAN = np.array([0.485, 0.456, 0.406], F)
STD = np.array([0.229, 0.224, 0.225], F)


def picture(width, height, seed):
    """Noise that test_picture.h makes alike."""
    i = np.arange(width * height * 3, dtype=np.uint32) + np.uint32(seed * 7919)
    i = i * np.uint32(2654435761)
    i ^= i >> np.uint32(15)
    i = i * np.uint32(2246822519)
    i ^= i >> np.uint32(13)
    return (i >> np.uint32(24)).astype(np.uint8).reshape(height, width, 3)


def normalize(unit):
    x = (unit - MEAN) / STD
    assert x.dtype == F and np.isfinite(x).all()
    return np.ascontiguousarray(x.transpose(2, 0, 1))


def vertical_first(version, w, h, out_w, out_h):
    """Pillow 12.3: very tall pictures; 13: where the height shrinks by more than twice as much."""
    if h <= out_h:
        return False
    return h > 100 * w if version == 12 else h - out_h > 2 * (w - out_w)


def pil(pixels, w, h, version=12):
    """One axis a call, so that the order of the passes does not depend on the Pillow that runs."""
    image = Image.fromarray(pixels)
    y_first = vertical_first(version, *image.size, w, h)
    between = (image.width, h) if y_first else (w, image.height)
    resized = image.resize(between, Image.Resampling.BILINEAR).resize((w, h), Image.Resampling.BILINEAR)
    if vertical_first(int(PIL.__version__.split(".")[0]), *image.size, w, h) == y_first:
        assert resized == image.resize((w, h), Image.Resampling.BILINEAR), (image.size, w, h)
    return normalize(np.asarray(resized).astype(F) / F(255))


def fma(a, b, c):
    """float32 a*b+c with one rounding: exact product, sum rounded to odd in float64, then float32."""
    a, b, c = np.broadcast_arrays(np.asarray(a, F), np.asarray(b, F), np.asarray(c, F))
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = c.astype(np.float64)
    total = product + addend
    rest = total - product
    error = (product - (total - rest)) + (addend - rest)
    bits = np.array(total).view(np.int64)
    toward = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    inexact_even = (error != 0) & (bits % 2 == 0)
    return np.where(inexact_even, toward, total).astype(F)


def bilinear_axis(n_in, n_out):
    o = np.arange(n_out, dtype=F)
    scale = F(n_in) / F(n_out)
    r = np.maximum(F(0), fma(scale, o + F(0.5), F(-0.5)))
    low = r.astype(np.int64)
    high = low + (low < n_in - 1)
    l1 = r - low.astype(F)
    return low, high, F(1) - l1, l1


def bilinear_unit(pixels, w, h):
    unit = pixels.astype(F) / F(255)
    x, x_, lx0, lx1 = bilinear_axis(pixels.shape[1], w)
    y, y_, ly0, ly1 = bilinear_axis(pixels.shape[0], h)
    lx0, lx1 = lx0[None, :, None], lx1[None, :, None]
    ly0, ly1 = ly0[:, None, None], ly1[:, None, None]
    a = fma(lx0, unit[y][:, x], lx1 * unit[y][:, x_])
    b = fma(lx0, unit[y_][:, x], lx1 * unit[y_][:, x_])
    return fma(ly0, a, ly1 * b)


def antialias_rows(n_in, n_out):
    scale = F(n_in) / F(n_out)
    support = max(F(1), scale)
    inverse = F(1.0 / np.float64(scale)) if scale >= 1 else F(1)
    for o in range(n_out):
        h = F(o) + F(0.5)
        low = max(0, int(fma(scale, h, -support)[()] + F(0.5)))
        high = min(n_in, int(fma(scale, h, support)[()] + F(0.5)))
        m = fma(-scale, h, F(low))[()]
        j = np.arange(high - low, dtype=F)
        weights = np.maximum(F(0), F(1) - np.abs(((j + m) + F(0.5)) * inverse))
        total = F(0)
        for weight in weights:
            total = F(total + weight)
        yield low, weights / total


def antialias_pass(values, n_out):
    """Resizes axis 0."""
    out = np.empty((n_out, *values.shape[1:]), F)
    for o, (low, weights) in enumerate(antialias_rows(values.shape[0], n_out)):
        total = values[low] * weights[0]
        for j in range(1, len(weights)):
            total = fma(values[low + j], weights[j], total)
        out[o] = total
    return out


def antialias_unit(pixels, w, h):
    unit = pixels.astype(F) / F(255)
    narrow = antialias_pass(np.ascontiguousarray(unit.transpose(1, 0, 2)), w)
    return antialias_pass(np.ascontiguousarray(narrow.transpose(1, 0, 2)), h)


def letterbox(pixels, dw, dh, fill):
    h, w = pixels.shape[:2]
    scale = min(dw / w, dh / h)
    nw, nh = int(w * scale), int(h * scale)
    left, top = int((dw - nw) / 2), int((dh - nh) / 2)
    canvas = np.full((dh, dw, 3), fill, np.uint8)
    canvas[top : top + nh, left : left + nw] = cv2.resize(pixels, (nw, nh), interpolation=cv2.INTER_LINEAR)
    return canvas


def center_crop(pixels, dw, dh):
    h, w = pixels.shape[:2]
    canvas = np.zeros((dh, dw, 3), np.uint8)
    sx, tx, nx = (0, (dw - w) // 2, w) if w < dw else ((w - dw) // 2, 0, dw)
    sy, ty, ny = (0, (dh - h) // 2, h) if h < dh else ((h - dh) // 2, 0, dh)
    canvas[ty : ty + ny, tx : tx + nx] = pixels[sy : sy + ny, sx : sx + nx]
    return canvas


def crc(array):
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


SIZES = [  # width, height -> width, height
    (1, 1, 1, 1), (1, 1, 312, 312), (312, 312, 312, 312), (312, 313, 312, 312), (311, 312, 312, 312),
    (640, 480, 312, 312), (480, 640, 384, 384), (1920, 1080, 312, 312), (3840, 2160, 312, 312),
    (4096, 2304, 640, 448), (1, 1080, 312, 312), (1920, 1, 312, 312), (100, 50, 312, 312),
    (37, 53, 61, 29), (13, 7, 800, 600), (2, 3, 5, 7), (3, 2, 1, 1), (8191, 3, 17, 9),
    (65535, 2, 7, 3), (2, 65535, 3, 7), (624, 624, 312, 312), (313, 1000, 312, 31), (1000, 313, 31, 312),
    (255, 257, 256, 256), (500, 375, 432, 432), (1280, 720, 504, 504), (17, 4096, 16, 31), (7, 7, 8, 1),
]  # fmt: skip


def sizes(count, seed, largest):
    rng = np.random.default_rng(seed)
    pairs = rng.integers(1, largest, (count, 4))
    return [tuple(int(v) for v in row) for row in pairs]


def main():
    lines = []
    for k, (w, h, ow, oh) in enumerate(SIZES + sizes(40, 1, 300)):
        for version in (12, 13):
            value = crc(pil(picture(w, h, k), ow, oh, version))
            lines.append(f"pil{version} {w} {h} {ow} {oh} {k} {value:08x}")
    float_sizes = [s for s in SIZES if max(s) < 5000] + sizes(25, 2, 200)
    for k, (w, h, ow, oh) in enumerate(float_sizes):
        value = crc(normalize(bilinear_unit(picture(w, h, k), ow, oh)))
        lines.append(f"bilinear {w} {h} {ow} {oh} {k} {value:08x}")
        value = crc(normalize(antialias_unit(picture(w, h, k), ow, oh)))
        lines.append(f"antialias {w} {h} {ow} {oh} {k} {value:08x}")
    for k, (w, h, ow, oh) in enumerate(SIZES + sizes(60, 3, 250)):
        resized = cv2.resize(picture(w, h, k), (ow, oh), interpolation=cv2.INTER_LINEAR)
        lines.append(f"cv {w} {h} {ow} {oh} {k} {crc(resized):08x}")
    for k, (w, h, dw, dh) in enumerate(
        [(640, 480, 640, 640), (480, 640, 640, 640), (333, 97, 512, 300), (1280, 720, 640, 640),
         (50, 31, 200, 100), (301, 299, 300, 300), (64, 64, 32, 32), (90, 40, 45, 45)]
    ):  # fmt: skip
        fill = 114 if k % 2 else 0
        canvas = letterbox(picture(w, h, k), dw, dh, fill)
        lines.append(f"letterbox {w} {h} {dw} {dh} {fill} 312 312 {k} {crc(pil(canvas, 312, 312)):08x}")
    for k, (w, h, dw, dh) in enumerate(
        [(640, 480, 320, 320), (100, 480, 320, 320), (480, 101, 320, 321), (99, 98, 320, 320), (321, 320, 320, 321)]
    ):
        canvas = center_crop(picture(w, h, k), dw, dh)
        lines.append(f"crop {w} {h} {dw} {dh} 0 312 264 {k} {crc(pil(canvas, 312, 264)):08x}")
    (Path(__file__).parent / "data" / "resize_goldens.txt").write_text("\n".join(lines) + "\n")


def compare_with_torch():
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    for k, (w, h, ow, oh) in enumerate([s for s in SIZES if max(s) < 5000] + sizes(25, 2, 200)):
        pixels = picture(w, h, k)
        unit = torch.from_numpy((pixels.astype(F) / F(255)).transpose(2, 0, 1)[None].copy()).to(device)
        for name, mine, antialias in (("bilinear", bilinear_unit, False), ("antialias", antialias_unit, True)):
            theirs = torch.nn.functional.interpolate(unit, (oh, ow), mode="bilinear", antialias=antialias)
            theirs = theirs[0].cpu().numpy().transpose(1, 2, 0)
            difference = np.abs(theirs - mine(pixels, ow, oh))
            print(device, name, (w, h, ow, oh), "differing:", int((difference != 0).sum()), "max:", difference.max())


if __name__ == "__main__":
    compare_with_torch() if "--torch" in sys.argv else main()
