#!/usr/bin/env python3
"""Writes data/torch_cuda_resize_*: what torch's CUDA bilinear resizers make of small pictures.

    make_cuda_goldens.py OUT_DIR        (needs a CUDA device; torch's CPU path rounds elsewhere)

For each case N: N_input.npy (uint8 [H, W, 3], random with smooth parts), N_plain.npy and
N_antialias.npy (float32 [H', W', 3]): F.interpolate(bilinear, align_corners=False) of the picture
divided by 255, without and with antialias=True, before normalising.

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

CASES = [((61, 83), (20, 14)), ((33, 41), (40, 12)), ((60, 17), (15, 25)), ((13, 13), (20, 20)),
         ((48, 64), (16, 19)), ((7, 1), (19, 5)), ((2, 1280), (2, 312)), ((9, 9), (9, 9))]


def main():
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)
    rng = np.random.default_rng(20)
    for i, (size, target) in enumerate(CASES):
        picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        half = size[1] // 2
        picture[:, :half] = picture[:, :half] // 8 + np.linspace(0, 220, max(half, 1)).astype(np.uint8)[:half, None]
        stem = os.path.join(out, f"torch_cuda_resize_{i}")
        np.save(f"{stem}_input.npy", picture)
        # Divided on the CPU, as rfdetr does: torch's CUDA division by a scalar multiplies by 1/255.
        x = (torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255).cuda()
        for name, antialias in (("plain", False), ("antialias", True)):
            y = F.interpolate(x, size=target, mode="bilinear", align_corners=False, antialias=antialias)
            np.save(f"{stem}_{name}.npy", np.ascontiguousarray(y[0].permute(1, 2, 0).cpu().numpy()))
    print(torch.__version__, torch.cuda.get_device_name())


if __name__ == "__main__":
    main()
