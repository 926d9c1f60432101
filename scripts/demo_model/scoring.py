"""Recall and precision at a mask IoU, one prediction to one object."""

import torch
import torch.nn.functional as F

from . import network


@torch.no_grad()
def score(w, g, views, picture, window, min_pixels=16, threshold=0.5):
    """Predictions above the threshold against the objects seen in each window.

    Predictions are taken best first; each takes the free object of its class that it overlaps most.
    Returns a dictionary of recall and precision at IoU 0.5 and 0.75, and counts.
    """
    hits, predictions, objects = {0.5: 0, 0.75: 0}, 0, 0
    for start in range(0, len(picture), 16):
        k, win = picture[start:start + 16], window[start:start + 16]
        boxes, logits, masks = network.predict(w, g, views.normalise(views.images(k, win)))
        classes, _, targets, counts = views.targets(k, win, min_pixels)
        best, label = logits.float().sigmoid().max(-1)
        for i in range(len(k)):
            n = int(counts[i])
            objects += n
            keep = (best[i] > threshold).nonzero()[:, 0]
            keep = keep[best[i, keep].argsort(descending=True)]
            predictions += len(keep)
            if not len(keep) or not n:
                continue

            def fine(m):
                return F.interpolate(m[None].float(), scale_factor=4, mode="bilinear")[0].flatten(1)

            a = (fine(masks[i, keep]) > 0).float()
            b = (fine(targets[i, :n]) > 0.5).float()
            inter = a @ b.T
            iou = inter / (a.sum(1)[:, None] + b.sum(1) - inter + 1e-6)
            iou = (iou * (label[i, keep][:, None] == classes[i, :n])).cpu()
            for level in hits:
                free = iou.clone()
                for row in range(len(keep)):
                    value, column = free[row].max(0)
                    if value >= level:
                        hits[level] += 1
                        free[:, column] = 0
    return {**{f"recall{int(100 * t)}": h / max(objects, 1) for t, h in hits.items()},
            **{f"precision{int(100 * t)}": h / max(predictions, 1) for t, h in hits.items()},
            "predictions": predictions, "objects": objects}


def zoomed_windows(views, each=8, seed=1):
    """The same zoomed views each time: sides 0.55 to 1 of the largest window of a view's aspect."""
    generator_state = torch.get_rng_state()
    cuda_state = torch.cuda.get_rng_state() if views.device == "cuda" else None
    torch.manual_seed(seed)
    picture = torch.arange(len(views.names), device=views.device).repeat_interleave(each)
    window = views.random_windows(picture, smallest=0.55)
    torch.set_rng_state(generator_state)
    if cuda_state is not None:
        torch.cuda.set_rng_state(cuda_state)
    return picture, window
