"""Writes case folders for bench_postprocess and peer_torch.py, drawn from COCO annotations.

python make_coco_cases.py INSTANCES.json FOLDER [--pictures 80] [--crowd N] [--queries 100] [--cells 78]

Each picture with annotated objects becomes FOLDER/NNN with boxes.npy [1, Q, 4], logits.npy [1, Q, 91] and
masks.npy [1, Q, cells, cells], float32, as the network would give them: an object's mask is the share of each
cell that it covers, as a logit with noise, its class has a score over 0.5, and all other queries are noise.
--crowd N takes objects from further pictures until each case has N. The same arguments give the same bytes.

Needs: pip install numpy pycocotools
"""
import argparse
import pathlib

try:
    import numpy as np
    from pycocotools.coco import COCO
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install numpy pycocotools")

CLASSES = 91


def cover(mask, cells):
    """Share of every cell of a cells x cells grid that the mask [H, W] covers, by summed areas."""
    height, width = mask.shape
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = mask.cumsum(0).cumsum(1)
    ys, xs = (np.linspace(0, side, cells + 1) for side in (height, width))
    rows = np.stack([np.interp(ys, np.arange(height + 1), sums[:, x]) for x in range(width + 1)], 1)
    at = np.stack([np.interp(xs, np.arange(width + 1), row) for row in rows])
    area = (height / cells) * (width / cells)
    return (at[1:, 1:] - at[:-1, 1:] - at[1:, :-1] + at[:-1, :-1]) / area


def objects_of(coco, image):
    size = coco.imgs[image]["width"], coco.imgs[image]["height"]
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image, iscrowd=0)):
        x, y, w, h = annotation["bbox"]
        if annotation["area"] < 1 or w < 1 or h < 1:
            continue
        box = [(x + w / 2) / size[0], (y + h / 2) / size[1], w / size[0], h / size[1]]
        yield box, annotation["category_id"], coco.annToMask(annotation)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instances")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--pictures", type=int, default=80)
    parser.add_argument("--crowd", type=int, default=0)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--cells", type=int, default=78)
    args = parser.parse_args()
    coco = COCO(args.instances)
    images = sorted(image for image in coco.imgs if coco.getAnnIds(imgIds=image, iscrowd=0))
    if not images:
        raise SystemExit(f"{args.instances}: no picture has an annotated object")
    random = np.random.default_rng(0)
    for case in range(min(args.pictures, len(images))):
        objects = list(objects_of(coco, images[case]))
        for further in range(1, len(images) * (args.crowd > 0)):
            if len(objects) >= args.crowd:
                break
            objects += objects_of(coco, images[(case + further) % len(images)])
        objects = objects[:min(args.queries, args.crowd or args.queries)]
        q, cells = args.queries, args.cells
        boxes = random.uniform(0.05, 0.95, (1, q, 4)).astype(np.float32)
        logits = random.normal(-6, 0.7, (1, q, CLASSES)).astype(np.float32)
        masks = random.normal(-4, 1, (1, q, cells, cells)).astype(np.float32)
        for query, (box, category, mask) in zip(random.permutation(q), objects):
            share = np.clip(cover(mask.astype(np.float64), cells), 0.002, 0.998)
            noise = random.normal(0, 0.3, share.shape)
            boxes[0, query] = box
            logits[0, query, category] = random.uniform(0.5, 4)
            masks[0, query] = 1.5 * np.log(share / (1 - share)) + noise
        path = args.folder / f"{case:03}"
        path.mkdir(parents=True, exist_ok=True)
        for name, array in {"boxes": boxes, "logits": logits, "masks": masks}.items():
            np.save(path / f"{name}.npy", array)
    print(f"{case + 1} cases in {args.folder}")


if __name__ == "__main__":
    main()
