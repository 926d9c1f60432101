#!/usr/bin/env python3
"""Writes data/color_swscale.bin: RGB of random YUV pictures as FFmpeg's libswscale converts them.

    python3 tests/preprocess/make_color_goldens.py      (needs ffmpeg 5 and numpy)

libswscale runs with accurate rounding, full-resolution chroma and point sampling, so that chroma is
replicated; its table-driven modes are up to 3 levels away from the exact matrix. Limited-range
samples are drawn from the legal codes, since this mode wraps around far outside them. The file holds,
for every case of CASES in order, the planes and then the RGB bytes of a WIDTH x HEIGHT picture.

Needs: pip install numpy
"""

import os
import subprocess

try:
    import numpy
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install numpy")

WIDTH, HEIGHT = 34, 18
CASES = [(pixels, matrix, range_)
         for pixels in ("yuv420p", "nv12", "p010le")
         for matrix in ("bt601", "bt709")
         for range_ in ("tv", "pc")]


def planes(pixels, range_, random):
    unit, shift = (4, 6) if pixels == "p010le" else (1, 0)
    first, luma_end, chroma_end = (16, 235, 240) if range_ == "tv" else (0, 256, 256)
    luma_end, chroma_end = luma_end * unit + (range_ == "tv"), chroma_end * unit + (range_ == "tv")
    luma = random.integers(first * unit, luma_end, (HEIGHT, WIDTH)) << shift
    chroma = random.integers(first * unit, chroma_end, (2, HEIGHT // 2, WIDTH // 2)) << shift
    kind = "<u2" if pixels == "p010le" else "u1"
    if pixels != "yuv420p":
        chroma = numpy.stack([chroma[0], chroma[1]], axis=-1)
    return luma.astype(kind).tobytes() + chroma.astype(kind).tobytes()


def main():
    random = numpy.random.default_rng(20)
    out = b""
    for pixels, matrix, range_ in CASES:
        data = planes(pixels, range_, random)
        rgb = subprocess.run(
            ["ffmpeg", "-v", "error", "-f", "rawvideo", "-pix_fmt", pixels, "-s",
             f"{WIDTH}x{HEIGHT}", "-i", "-", "-vf",
             f"scale=in_color_matrix={matrix}:in_range={range_}:out_range=pc:"
             "flags=neighbor+accurate_rnd+full_chroma_int,format=rgb24", "-f", "rawvideo", "-"],
            input=data, stdout=subprocess.PIPE, check=True).stdout
        assert len(rgb) == WIDTH * HEIGHT * 3
        out += data + rgb
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "color_swscale.bin")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(out)
    print(path, len(out), "bytes")


if __name__ == "__main__":
    main()
