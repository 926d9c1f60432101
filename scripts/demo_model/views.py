"""Random views of the photographs with their targets, made on the training device.

A view is a window (x0, y0, w, h) in pixels of one photograph, stretched to R x R by the plain
bilinear formula (two taps, no antialias, align_corners=False), which for the whole picture is the
product's default pre-processing. Targets come from summed-area tables of the annotation masks:
the mean of the mask over each cell of an M x M grid is exact for any window.
"""

import json
import math

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_OBJECTS = 48
VISIBLE = 0.3          # an object counts in a window that shows this part of its area
WIDE = 16 / 9


def load(folder, names=None):
    """[(COCO image record, uint8 [H, W, 3], annotations without crowds)] of an image folder."""
    with open(f"{folder}/instances.json", encoding="utf-8") as file:
        data = json.load(file)
    found = []
    for record in data["images"]:
        if names and record["file_name"] not in names:
            continue
        pixels = np.asarray(Image.open(f"{folder}/images/{record['file_name']}").convert("RGB"))
        objects = [a for a in data["annotations"] if a["image_id"] == record["id"] and not a["iscrowd"]]
        found.append((record, pixels, objects))
    return found


def polygon_mask(annotation, height, width):
    runs = coco_mask.merge(coco_mask.frPyObjects(annotation["segmentation"], height, width))
    return coco_mask.decode(runs)


class Views:
    def __init__(self, pictures, device, resolution):
        self.resolution, self.device = resolution, device
        self.make_images, self.make_targets = self.images, self.targets     # may be replaced by compiled ones
        self.names = [record["file_name"] for record, _, _ in pictures]
        height = max(p.shape[0] for _, p, _ in pictures)
        width = max(p.shape[1] for _, p, _ in pictures)
        n = len(pictures)
        canvas = np.zeros((2 * n, height, width, 3), np.uint8)
        tables, classes, boxes = [], [], []
        ids = torch.full((n, MAX_OBJECTS), -1, dtype=torch.int64)
        for i, (_, pixels, objects) in enumerate(pictures):
            h, w = pixels.shape[:2]
            # The second half of the canvases is slightly blurred: what antialiasing resizers see.
            padded = np.pad(pixels.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
            soft = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
            soft = (soft[:, :-2] + 2 * soft[:, 1:-1] + soft[:, 2:]) / 4
            canvas[i, :h, :w], canvas[n + i, :h, :w] = pixels, np.round(soft)
            if len(objects) > MAX_OBJECTS:
                raise ValueError(f"{self.names[i]}: {len(objects)} objects, at most {MAX_OBJECTS}")
            for k, a in enumerate(objects):
                ids[i, k] = len(tables)
                table = np.zeros((height + 1, width + 1), np.float32)
                m = polygon_mask(a, h, w).astype(np.int64)
                table[1:h + 1, 1:w + 1] = m.cumsum(0).cumsum(1)
                table[h + 1:, 1:w + 1] = table[h, 1:w + 1]
                table[:, w + 1:] = table[:, w:w + 1]
                x, y, bw, bh = a["bbox"]
                tables.append(table)
                classes.append(a["category_id"])
                boxes.append((x, y, x + bw, y + bh))
        self.canvas = torch.as_tensor(canvas, device=device)
        self.tables = torch.as_tensor(np.stack(tables), device=device)
        self.classes = torch.as_tensor(classes, device=device)
        self.boxes = torch.as_tensor(boxes, dtype=torch.float32, device=device)
        self.ids = ids.to(device)
        self.sizes = torch.tensor([(p.shape[1], p.shape[0]) for _, p, _ in pictures],
                                  dtype=torch.float32, device=device)
        self.weights = 1 + (self.ids >= 0).sum(1) / 15
        self.mean = torch.tensor(MEAN, device=device)
        self.std = torch.tensor(STD, device=device)

    def whole(self, picture):
        zero = torch.zeros(len(picture), 2, device=self.device)
        return torch.cat([zero, self.sizes[picture]], 1)

    def random_windows(self, picture, smallest=0.5):
        """Windows of the picture's aspect, of 16:9, or between, placed at random."""
        n, size = len(picture), self.sizes[picture]
        u = torch.rand(6, n, device=self.device)
        own = size[:, 0] / size[:, 1]
        mix = torch.where(u[0] < 0.4, 1.0, torch.where(u[0] < 0.65, 0.0, u[1]))
        aspect = (own.log() * (1 - mix) + math.log(WIDE) * mix).exp()
        side = torch.where(u[2] < 0.15, 1.0, smallest + (1 - smallest) * u[3])
        w = torch.minimum(size[:, 0], size[:, 1] * aspect)
        wh = torch.stack([w, w / aspect], 1) * side[:, None]
        wh = torch.minimum(wh, size)
        return torch.cat([(size - wh) * u[4:6].T, wh], 1)

    def images(self, picture, window, soft=None):
        """float32 [B, 3, R, R] in 0..1; soft: bool [B], take the blurred copy."""
        r, (count, height, width) = self.resolution, self.canvas.shape[:3]
        o = torch.arange(r, device=self.device) + 0.5

        def axis(start, length, limit):
            step = length / r
            at = (o * step[:, None] - 0.5).clamp(min=0)
            at = start[:, None] + torch.minimum(at, (length - 1).clamp(min=0)[:, None])
            low = at.floor()
            high = torch.minimum(low + 1, limit[:, None] - 1)
            return low.long(), high.long(), at - low

        size = self.sizes[picture]
        x0, x1, fx = axis(window[:, 0], window[:, 2], size[:, 0])
        y0, y1, fy = axis(window[:, 1], window[:, 3], size[:, 1])
        plane = picture if soft is None else picture + soft * (count // 2)
        flat = self.canvas.view(-1, 3)

        def take(y, x):
            return flat[((plane[:, None] * height + y) * width)[:, :, None] + x[:, None]].float()

        fx, fy = fx[:, None, :, None], fy[:, :, None, None]
        top = take(y0, x0) * (1 - fx) + take(y0, x1) * fx
        bottom = take(y1, x0) * (1 - fx) + take(y1, x1) * fx
        return ((top * (1 - fy) + bottom * fy) / 255).permute(0, 3, 1, 2)

    def normalise(self, images):
        return (images - self.mean[:, None, None]) / self.std[:, None, None]

    def jitter(self, images, whole):
        """Light changes of contrast, brightness and noise, as a video encoder might make."""
        u = torch.rand(3, len(images), 1, 1, 1, device=self.device)
        strength = torch.where(whole, 0.3, 1.0)[:, None, None, None]
        images = images * (1 + (u[0] - 0.5) * 0.2 * strength) + (u[1] - 0.5) * 0.1 * strength
        noise = torch.randn_like(images) * (u[2] - 0.5).clamp(min=0) * 0.05 * strength
        return (images + noise).clamp(0, 1)

    def _integral(self, ids, y, x):
        """Summed-area tables of objects [B, N] at fractional y [B, Y] and x [B, X] -> [B, N, Y, X]."""
        height, width = self.tables.shape[1:]
        y0, x0 = y.floor().clamp(0, height - 2), x.floor().clamp(0, width - 2)
        fy, fx = (y - y0)[:, None, :, None], (x - x0)[:, None, None, :]
        flat = self.tables.view(-1)
        base = ids.clamp(min=0)[:, :, None] * height + y0.long()[:, None]
        index = base[..., None] * width + x0.long()[:, None, None, :]
        top = flat[index] * (1 - fx) + flat[index + 1] * fx
        bottom = flat[index + width] * (1 - fx) + flat[index + width + 1] * fx
        return top * (1 - fy) + bottom * fy

    def targets(self, picture, window, min_pixels):
        """What to find in each window: objects that show VISIBLE of themselves and min_pixels at R.

        Returns classes [B, N], boxes [B, N, 4] (cx, cy, w, h in 0..1), masks [B, N, M, M] (the part
        of each cell that is covered), counts [B]; the objects in use come first.
        """
        r, side = self.resolution, self.resolution // 4
        ids = self.ids[picture]
        x0, y0, w, h = window.unbind(1)

        def grid(start, length, cells):
            return start[:, None] + length[:, None] * torch.linspace(0, 1, cells + 1, device=self.device)

        whole = self.tables[:, -1, -1][ids.clamp(min=0)]
        ends_x, ends_y = torch.stack([x0, x0 + w], 1), torch.stack([y0, y0 + h], 1)
        corner = self._integral(ids, ends_y, ends_x)
        seen = corner[..., 1, 1] - corner[..., 0, 1] - corner[..., 1, 0] + corner[..., 0, 0]
        pixels = seen * (r * r / (w * h))[:, None]
        keep = (ids >= 0) & (seen >= VISIBLE * whole) & (pixels >= min_pixels)
        order = (~keep).to(torch.int8).argsort(dim=1, stable=True)
        ids, keep = ids.gather(1, order), keep.gather(1, order)

        mask = self._integral(ids, grid(y0, h, side), grid(x0, w, side))
        mask = mask[..., 1:, 1:] - mask[..., :-1, 1:] - mask[..., 1:, :-1] + mask[..., :-1, :-1]
        mask = (mask * (side * side / (w * h))[:, None, None, None]).clamp(0, 1)

        # The box of the visible part: from the profiles of the mask, snapped to the annotation's
        # box where the two agree.
        fine = 2 * r
        columns = self._integral(ids, ends_y, grid(x0, w, fine))
        columns = (columns[:, :, 1] - columns[:, :, 0]).diff(dim=-1) > 0.3
        rows = self._integral(ids, grid(y0, h, fine), ends_x)
        rows = (rows[..., 1] - rows[..., 0]).diff(dim=-1) > 0.3
        known = self.boxes[ids.clamp(min=0)]

        def extent(hit, start, length, low, high):
            a = hit.to(torch.int8).argmax(-1) / fine
            b = 1 - hit.flip(-1).to(torch.int8).argmax(-1) / fine
            low, high = (((t - start[:, None]) / length[:, None]).clamp(0, 1) for t in (low, high))
            near = (1.5 / length)[:, None]
            return (torch.where((a - low).abs() < near, low, a), torch.where((b - high).abs() < near, high, b))

        left, right = extent(columns, x0, w, known[..., 0], known[..., 2])
        top, bottom = extent(rows, y0, h, known[..., 1], known[..., 3])
        boxes = torch.stack([(left + right) / 2, (top + bottom) / 2,
                             (right - left).clamp(min=1e-3), (bottom - top).clamp(min=1e-3)], -1)
        return self.classes[ids.clamp(min=0)], boxes, mask, keep.sum(1)

    def batch(self, size, min_pixels, whole_share):
        """A random training batch: normalised pictures and their targets."""
        share = self.weights.cumsum(0) / self.weights.sum()
        picture = torch.searchsorted(share, torch.rand(size, device=self.device)).clamp(max=len(share) - 1)
        whole = torch.rand(size, device=self.device) < whole_share
        window = torch.where(whole[:, None], self.whole(picture), self.random_windows(picture))
        soft = torch.rand(size, device=self.device) < 0.2
        images = self.jitter(self.make_images(picture, window, soft), whole)
        return self.normalise(images), self.make_targets(picture, window, min_pixels)
