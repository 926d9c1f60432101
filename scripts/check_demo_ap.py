#!/usr/bin/env python3
"""What PyTorch makes of the demonstration model: COCO AP, and reference detections for the tests.

    scripts/check_demo_ap.py                      prints bbox and segm AP/AR on assets/demo
    scripts/check_demo_ap.py --expected FILE      also writes the detections above 0.3 of each
                                                  picture (tests/pipeline/data/demo_expected.json)

For developers; a CPU is enough. `rfseg eval` must report the same numbers within 0.001. Pre- and
post-processing are the program's defaults (scripts/demo_model/reference.py), every selected pair is
scored.

Needs: pip install torch numpy pillow pycocotools safetensors
"""

import argparse
import contextlib
import io
import json
import os
import sys

try:
    import torch
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install torch numpy pillow pycocotools safetensors")

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from demo_model import network, reference, views  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def coco_numbers(annotations, results, kind):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--data", default=os.path.join(ROOT, "assets/demo"))
    p.add_argument("--model", default=os.path.join(ROOT, "assets/demo/model.safetensors"))
    p.add_argument("--threshold", type=float, default=0.0, help="pairs must score more (default: all selected)")
    p.add_argument("--expected", help="write the reference detections here")
    a = p.parse_args()
    torch.set_num_threads(2)
    g = network.Geometry()
    w = reference.load_weights(a.model, g)
    results, expected = [], []
    for record, pixels, _ in views.load(a.data):
        found = reference.detect(w, g, pixels, a.threshold)
        for d in found:
            x1, y1, x2, y2 = d["box"]
            results.append({"image_id": record["id"], "category_id": d["category_id"], "score": d["score"],
                            "bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": d["segmentation"]})
        expected.append({"file_name": record["file_name"],
                         "detections": [{**d, "score": round(d["score"], 6), "box": [round(v, 3) for v in d["box"]]}
                                        for d in found if d["score"] > 0.3]})
    print(f"{len(expected)} pictures, {len(results)} pairs, "
          f"{sum(len(e['detections']) for e in expected)} above 0.3")
    names = "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split()
    for kind in ("bbox", "segm"):
        stats = coco_numbers(os.path.join(a.data, "instances.json"), results, kind)
        print(kind, " ".join(f"{n} {v:.6f}" for n, v in zip(names, stats)))
    if a.expected:
        os.makedirs(os.path.dirname(os.path.abspath(a.expected)), exist_ok=True)
        with open(a.expected, "w", encoding="utf-8") as file:
            json.dump({"model": "assets/demo/model.safetensors", "threshold": 0.3, "written_by": "scripts/check_demo_ap.py",
                       "images": expected}, file, indent=0, separators=(",", ":"))
            file.write("\n")


if __name__ == "__main__":
    main()
