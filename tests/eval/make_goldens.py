"""Writes data/cases.json: small random evaluation cases and what pycocotools 2.0.11 makes of them.

Each case holds a ground truth, results, and the twelve numbers for the IoU types that pycocotools can
evaluate. Where pycocotools cannot load a form of segmentation in results (uncompressed lists,
polygons), it is given the compressed form of the same mask.

    python make_goldens.py                       # the cases
    python make_goldens.py INSTANCES RESULTS     # also cuts data/{instances,results}.json from the
                                                 # public 100-picture sample, members unused left out

Needs: pip install numpy pycocotools
"""

import contextlib
import copy
import io
import json
import pathlib
import sys

try:
    import numpy as np
    from pycocotools import mask as api
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install numpy pycocotools")

DATA = pathlib.Path(__file__).parent / "data"
rng = np.random.default_rng(7)


def stats(truth, results, iou_type):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), iou_type)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(x) for x in run.stats]


def runs(mask):
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0] + counts if flat[0] else counts


def compressed(mask):
    rle = api.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def blob(height, width, box):
    x, y, w, h = box
    yy, xx = np.mgrid[:height, :width]
    inside = ((xx - x - w / 2) / (w / 2)) ** 2 + ((yy - y - h / 2) / (h / 2)) ** 2 <= 1
    return inside.astype(np.uint8)


def random_box(height, width):
    w = float(np.round(width * rng.uniform(.03, .97) ** 1.5, 2)) + 2
    h = float(np.round(height * rng.uniform(.03, .97) ** 1.5, 2)) + 2
    x = float(np.round(rng.uniform(0, max(1, width - w)), 2))
    y = float(np.round(rng.uniform(0, max(1, height - h)), 2))
    return [x, y, w, h]


def octagon(box):
    x, y, w, h = box
    corners = [(.3, 0), (.7, 0), (1, .3), (1, .7), (.7, 1), (.3, 1), (0, .7), (0, .3)]
    return [round(v, 2) for cx, cy in corners for v in (x + cx * w, y + cy * h)]


def jitter(box, amount):
    x, y, w, h = box
    d = rng.normal(0, amount, 4)
    return [round(v, 2) for v in (x + d[0] * w, y + d[1] * h,
                                  max(2., w * (1 + d[2])), max(2., h * (1 + d[3])))]


def make_case(name, images=4, per_image=5, boxes=False, forms=("compressed",), first_id=1,
              many=0, mismatch=False):
    categories = [3, 17, 90]
    truth = {"images": [], "annotations": [], "categories": []}
    results, plain = [], []  # the results as the case states them, and as pycocotools reads them
    for i in range(images):
        height, width = (int(v) for v in rng.integers(40, 320, 2))
        image_id = int(rng.permutation([9, 4, 100, 2, 55, 71, 13, 8])[0]) * 10 + i
        truth["images"].append({"id": image_id, "height": height, "width": width})
        count = 0 if i == 1 else int(rng.integers(1, per_image + 1))
        drawn = []
        for _ in range(count):
            box = random_box(height, width)
            category = int(rng.choice(categories))
            crowd = int(rng.random() < .2)
            entry = {"id": first_id + len(truth["annotations"]), "image_id": image_id,
                     "category_id": category, "bbox": box, "iscrowd": crowd}
            if rng.random() < .2:
                entry["ignore"] = 1  # pycocotools overwrites it with iscrowd
            if crowd:
                mask = blob(height, width, box)
                entry["segmentation"] = {"size": [height, width], "counts": runs(mask)}
            elif rng.random() < .2:
                mask = blob(height, width, box)
                entry["segmentation"] = compressed(mask)
            else:
                polygons = [octagon(box)]
                if rng.random() < .3:
                    polygons.append(octagon(random_box(height, width)))
                entry["segmentation"] = polygons
                mask = api.decode(api.merge(api.frPyObjects(polygons, height, width)))
            entry["area"] = round(float(mask.sum()) * rng.uniform(.95, 1.05), 3)
            truth["annotations"].append(entry)
            drawn.append((box, category))
        candidates = [(jitter(b, a), c) for b, c in drawn for a in rng.choice([.02, .08, .2], 3)]
        candidates += [(random_box(height, width), int(rng.choice(categories + [5]))) for _ in range(3)]
        candidates += [(random_box(height, width), 17) for _ in range(many)]
        if i == images - 1 and images > 2:
            candidates = []  # a picture without results
        for box, category in candidates:
            entry = {"image_id": image_id, "category_id": category,
                     "score": round(float(rng.random()), 1)}  # many ties
            reference = dict(entry)
            if boxes:
                entry["bbox"] = reference["bbox"] = box
            if forms:
                shape = (height + 1, width) if mismatch and rng.random() < .3 else (height, width)
                mask = blob(*shape, box)
                form = str(rng.choice(forms))
                if form == "polygons":
                    polygons = [octagon(box), octagon(random_box(*shape))]
                    rle = api.merge(api.frPyObjects(polygons, height, width))
                    mask = api.decode(rle)
                    entry["segmentation"] = polygons
                elif form == "counts":
                    entry["segmentation"] = {"size": list(shape), "counts": runs(mask)}
                else:
                    entry["segmentation"] = compressed(mask)
                reference["segmentation"] = compressed(mask)
            results.append(entry)
            plain.append(reference)
    truth["categories"] = [{"id": int(c), "name": str(c)} for c in rng.permutation(categories)]
    order = rng.permutation(len(results))
    results = [results[i] for i in order]
    plain = [plain[i] for i in order]
    print(name, len(truth["annotations"]), len(results))
    return {"name": name, "truth": truth, "results": results,
            "bbox": stats(truth, plain, "bbox"), "segm": stats(truth, plain, "segm")}


def cut(instances, results):
    truth = json.load(open(instances))
    keep = {
        "images": ["id", "height", "width"],
        "categories": ["id", "name"],
        "annotations": ["id", "image_id", "category_id", "iscrowd", "area", "bbox", "segmentation"],
    }
    out = {k: [{m: entry[m] for m in members} for entry in truth[k]] for k, members in keep.items()}
    DATA.joinpath("instances.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")
    entries = json.load(open(results))
    DATA.joinpath("results.json").write_text(json.dumps(entries, separators=(",", ":")) + "\n")
    expected = {t: stats(out, entries, t) for t in ("bbox", "segm")}
    DATA.joinpath("expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    cases = [
        make_case("masks"),
        make_case("masks_and_boxes", boxes=True),
        make_case("boxes_alone", boxes=True, forms=()),
        make_case("every_form", forms=("compressed", "counts", "polygons")),
        make_case("every_form_and_boxes", boxes=True, forms=("compressed", "counts", "polygons")),
        make_case("annotation_id_zero", first_id=0, per_image=8),
        make_case("over_100_detections", images=2, boxes=True, forms=(), many=130),
        make_case("masks_of_another_size", mismatch=True),
        make_case("one_picture", images=1, per_image=1),
        make_case("more_pictures", images=7, per_image=3),
    ]
    text = "[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]\n"
    DATA.joinpath("cases.json").write_text(text)
    print(len(text), "bytes")
    if len(sys.argv) == 3:
        cut(*sys.argv[1:])
