"""The detection and mask losses of rfdetr, over padded batches without leaving the device.

Per stage: IoU-aware classification (ia_bce_loss of rfdetr), L1 and generalised IoU of the boxes,
cross-entropy and dice of the masks. Instead of sampling points, masks are compared on the whole
M x M grid with the covered part of each cell as the target. The encoder stage has no masks.
"""

import torch
import torch.nn.functional as F

from . import matching, network

ALPHA = 0.25
CLASS, L1, GIOU, BCE, DICE = 2.0, 5.0, 2.0, 5.0, 5.0       # matching; losses use 1 for the class


def corners(b):
    return torch.cat([b[..., :2] - b[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2], -1)


def iou_and_giou(a, b):
    """Of broadcastable boxes cx, cy, w, h."""
    a, b = corners(a), corners(b)

    def area(lo, hi):
        return (hi - lo).clamp(min=0).prod(-1)

    inter = area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - inter
    hull = area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    iou = inter / (union + 1e-7)
    return iou, iou - (hull - union) / (hull + 1e-7)


@torch.no_grad()
def costs(w, stage, targets):
    """Matching cost of every object and query, [B, N, G*Q]."""
    classes, boxes, masks, _ = targets
    logits, found = stage[0].float(), stage[1]
    p = logits.sigmoid()
    positive = ALPHA * (1 - p) ** 2 * -F.logsigmoid(logits)
    negative = (1 - ALPHA) * p ** 2 * -F.logsigmoid(-logits)
    index = classes[:, None].expand(-1, logits.shape[1], -1)
    total = CLASS * (positive - negative).gather(2, index).transpose(1, 2)
    total += L1 * (boxes[:, :, None] - found[:, None]).abs().sum(-1)
    total -= GIOU * iou_and_giou(boxes[:, :, None], found[:, None])[1]
    if len(stage) > 2:
        # On a third of the grid: the mean of the logits of 3 x 3 cells is the logit of mean features.
        coarse = F.avg_pool2d(stage[3], 3)
        m = network.masks_of(w, stage[2], coarse).float().flatten(2)           # [B, GQ, P]
        t = F.avg_pool2d(masks, 3).flatten(2)                                  # [B, N, P]
        cells = m.shape[-1]
        total += BCE / cells * (F.softplus(m).sum(-1)[:, None] - t @ m.transpose(1, 2))
        s = m.sigmoid()
        total += DICE * (1 - (2 * t @ s.transpose(1, 2) + 1) / (t.sum(-1)[:, :, None] + s.sum(-1)[:, None] + 1))
    return total


def stage_loss(w, stage, targets, found, valid, objects):
    """One stage's weighted loss. found [B, G*N]: the query of each object, in each group."""
    classes, boxes, masks, _ = targets
    groups = found.shape[1] // classes.shape[1]
    classes, boxes = classes.repeat(1, groups), boxes.repeat(1, groups, 1)
    logits, predicted = stage[0].float(), stage[1].gather(1, found[..., None].expand(-1, -1, 4))
    iou, giou = iou_and_giou(predicted, boxes)

    p = logits.detach().sigmoid()
    batch = torch.arange(len(found), device=found.device)[:, None].expand_as(found)
    quality = p[batch, found, classes] ** ALPHA * iou.detach().clamp(min=0) ** (1 - ALPHA)
    quality = torch.where(valid, quality.clamp(min=0.01), 0.0)
    # No two used objects share a query; a row without an object adds zero.
    positive = torch.zeros_like(p).index_put((batch, found, classes), quality, accumulate=True)
    negative = torch.where(positive > 0, 1 - positive, p ** 2)
    loss = -(positive * F.logsigmoid(logits) + negative * F.logsigmoid(-logits)).sum()

    used = valid.float()
    loss = loss + L1 * ((predicted - boxes).abs().sum(-1) * used).sum()
    loss = loss + GIOU * ((1 - giou) * used).sum()
    if len(stage) > 2:
        hidden = stage[2].gather(1, found[..., None].expand(-1, -1, stage[2].shape[-1]))
        m = network.masks_of(w, hidden, stage[3]).float().unflatten(1, (groups, -1)).flatten(3)
        t = masks.flatten(2)[:, None]
        used = used.unflatten(1, (groups, -1))
        bce = (F.softplus(m) - t * m).sum(-1)
        # Between a mean over the grid and a mean over the object's box, so that small objects count.
        size = (boxes[..., 2:].prod(-1) * m.shape[-1]).clamp(min=16).unflatten(1, (groups, -1))
        loss = loss + BCE * (bce / (size * m.shape[-1]).sqrt() * used).sum()
        s = m.sigmoid()
        dice = 1 - (2 * (s * t).sum(-1) + 1) / (s.sum(-1) + t.sum(-1) + 1)
        loss = loss + DICE * (dice * used).sum()
    return loss / objects


def total_loss(w, g, outputs, targets, groups):
    stages = [outputs["encoder"], *outputs["layers"]]
    counts = targets[3]
    batch, n = targets[0].shape
    cost = torch.stack([costs(w, stage, targets) for stage in stages])          # [stages, B, N, G*Q]
    cost = cost.unflatten(-1, (groups, g.queries)).permute(0, 1, 3, 2, 4)       # [stages, B, G, N, Q]
    repeated = counts[None, :, None].expand(len(stages), batch, groups)
    found = matching.match(cost.reshape(-1, n, g.queries), repeated.reshape(-1))
    found = found.view(len(stages), batch, groups, n).to(cost.device)
    first = torch.arange(groups, device=found.device)[:, None] * g.queries
    valid = torch.arange(n, device=found.device) < counts[:, None]
    valid = valid.repeat(1, groups)
    objects = (counts.sum() * groups).clamp(min=1)
    losses = [stage_loss(w, stage, targets, (f + first).flatten(1), valid, objects)
              for stage, f in zip(stages, found)]
    return sum(losses)
