#!/usr/bin/env python3
"""How much of the network's own rate `rfseg predict` keeps, end to end.

    bench_pipeline.py MODEL [--rfseg build/release/rfseg] [--threads 2] [--rounds 10] [--frames 40]

Each round alternates three runs: the network alone (`rfseg bench`, frames per second of its median
call), `rfseg predict` over a 720p video (the bundled clip), and over a folder of 1920x1080 JPEGs
(made from the bundled photographs; needs Pillow). Prints the medians and the median ratio of each to
the network alone in the same round; loading the model is left out, as `--stats` does.

Needs: pip install pillow
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

try:
    from PIL import Image
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install pillow")

ROOT = pathlib.Path(__file__).resolve().parent.parent


def make_pictures(folder, count):
    photographs = sorted((ROOT / "assets/demo/images").glob("*.jpg"))
    paths = []
    for i in range(count):
        picture = Image.open(photographs[i % len(photographs)]).convert("RGB")
        path = folder / f"{i:03}.jpg"
        picture.resize((1920, 1080), Image.LANCZOS).save(path, quality=90)
        paths.append(path)
    return paths


def network_rate(options):
    out = subprocess.run([options.rfseg, "bench", "-q", "-m", options.model, "--threads", str(options.threads),
                          "--rounds", "15", "--warmup", "2", "--json"], check=True, capture_output=True).stdout
    stage = next(s for s in json.loads(out)["stages"] if s["name"] == "network")
    return stage["images_per_s"]


def predict_rate(options, inputs, folder):
    stats = folder / "stats.json"
    subprocess.run([options.rfseg, "predict", "-q", "-m", options.model, "--threads", str(options.threads),
                    *map(str, inputs), "-o", str(folder / "out.jsonl"), "--stats", str(stats)], check=True)
    return json.loads(stats.read_text())["frames_per_s"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--rfseg", default=str(ROOT / "build/release/rfseg"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--frames", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "pictures").mkdir()
        make_pictures(folder / "pictures", options.frames)
        clip = [ROOT / "assets/demo/clip.mp4", "--end", str(options.frames / 25)]
        rates = {"network": [], "video": [], "folder": []}
        for i in range(options.rounds):
            rates["network"].append(network_rate(options))
            rates["video"].append(predict_rate(options, clip, folder))
            rates["folder"].append(predict_rate(options, [folder / "pictures"], folder))
            print(f"round {i + 1}: " + ", ".join(f"{k} {v[-1]:.2f}/s" for k, v in rates.items()), flush=True)
    print(f"network alone: {statistics.median(rates['network']):.2f} frames/s at {options.threads} threads")
    for kind, label in (("video", "720p video"), ("folder", "1080p JPEGs")):
        ratios = [a / b for a, b in zip(rates[kind], rates["network"])]
        print(f"{label}: {statistics.median(rates[kind]):.2f} frames/s, {100 * statistics.median(ratios):.1f} % of it")


if __name__ == "__main__":
    main()
