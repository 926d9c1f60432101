#!/usr/bin/env python3
"""Writes data/torch_cuda_masks_*: what torch's CUDA bilinear resizers make of mask logits.

    make_cuda_goldens.py OUT_DIR        (needs a CUDA device; torch's CPU path rounds elsewhere)

For each map N: N.npy (float32 [h, w] logits), and for each size and mode (plain: F.interpolate
bilinear, align_corners=False; antialias: the same with antialias=True):
N_HxW_MODE_bits.npy   uint8, np.packbits of (resized > 0), row-major, first pixel in the highest bit
N_HxW_MODE_values.npy float32 [128], the resized values at flat positions (i * 7919) % (H * W)

Needs: pip install numpy torch
"""

import os
import sys

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install numpy torch")

MAPS = [(78, 78), (26, 31), (26, 31)]
SIZES = [(97, 131), (233, 217), (40, 50)]


def main():
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)
    generator = torch.Generator().manual_seed(21)
    for i, size in enumerate(MAPS):
        # Blobs with a little noise, so that borders cross cells at every angle.
        blobs = torch.randn(1, 1, 7, 7, generator=generator) * 6
        logits = F.interpolate(blobs, size=size, mode="bicubic", align_corners=False)
        logits = logits + torch.randn(1, 1, *size, generator=generator) * (0.5 if i < 2 else 4.0)
        stem = os.path.join(out, f"torch_cuda_masks_{i}")
        np.save(f"{stem}.npy", logits[0, 0].numpy())
        for height, width in SIZES:
            for name, antialias in (("plain", False), ("antialias", True)):
                y = F.interpolate(logits.cuda(), size=(height, width), mode="bilinear", align_corners=False,
                                  antialias=antialias)[0, 0].cpu().numpy()
                at = np.arange(128, dtype=np.int64) * 7919 % (height * width)
                np.save(f"{stem}_{height}x{width}_{name}_bits.npy", np.packbits(y > 0))
                np.save(f"{stem}_{height}x{width}_{name}_values.npy", y.reshape(-1)[at])
    print(torch.__version__, torch.cuda.get_device_name())


if __name__ == "__main__":
    main()
