#!/usr/bin/env python3
"""Measures the Pillow-exact pre-processing against Pillow itself, interleaved in one run.

    python3 scripts/bench_preprocess.py [--build build/release] [--rounds 12] [--size 1920x1080] [--side 312]

Each round times Pillow (resize alone, and resize + normalise with numpy) and then rfseg (resize +
normalise, bench_preprocess), one thread each; the medians over the rounds and their ratios are
printed. Takes a build with benchmarks.

Needs: pip install numpy pillow
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

try:
    import numpy as np
    import PIL
    from PIL import Image
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install numpy pillow")

F = np.float32
MEAN = np.array([0.485, 0.456, 0.406], F)
STD = np.array([0.229, 0.224, 0.225], F)


def median_ms(call, seconds=0.3):
    """Median wall-clock milliseconds of repeated calls."""
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/release", type=Path)
    parser.add_argument("--rounds", default=12, type=int)
    parser.add_argument("--size", default="1920x1080", help="1920x1080, 3840x2160 or 640x480")
    parser.add_argument("--side", default=312, type=int)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))
    side = (options.side, options.side)

    def resize():
        return image.resize(side, Image.Resampling.BILINEAR)

    def resize_and_normalize():
        x = (np.asarray(resize()).astype(F) / F(255) - MEAN) / STD
        return np.ascontiguousarray(x.transpose(2, 0, 1))

    kernels = {"rfseg": "run/pil_cpu", "rfseg avx2": "run_pil/avx2"}
    times = {name: [] for name in ["Pillow resize", "Pillow + numpy", *kernels]}
    for _ in range(options.rounds):
        times["Pillow resize"].append(median_ms(resize))
        times["Pillow + numpy"].append(median_ms(resize_and_normalize))
        for name, kernel in kernels.items():
            command = [
                options.build / "bench" / "bench_preprocess",
                f"--benchmark_filter=^{kernel}/{width}/{height}/{options.side}$",
                "--benchmark_min_time=0.02",
                "--benchmark_repetitions=15",
                "--benchmark_report_aggregates_only=true",
                "--benchmark_format=json",
            ]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            # Absent where this processor cannot run the kernel.
            times[name] += [b["real_time"] / 1e6 for b in result["benchmarks"] if b.get("aggregate_name") == "median"]
    print(f"Pillow {PIL.__version__}, {options.size} to {side[0]}x{side[1]}, {options.rounds} rounds, median ms (wall)")
    for name, values in times.items():
        if values:
            text = f"{name:16} {statistics.median(values):7.3f}"
            for peer in ("Pillow resize", "Pillow + numpy"):
                text += f"   / {peer} {statistics.median(a / b for a, b in zip(values, times[peer])):.3f}"
            print(text)


if __name__ == "__main__":
    main()
