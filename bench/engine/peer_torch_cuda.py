#!/usr/bin/env python3
"""The yardstick of bench_network_cuda: transformers' RF-DETR, compiled and replayed as a CUDA graph.

    peer_torch_cuda.py [--precision fp16|fp32] [--rounds N] [--turn FILE] VARIANT:BATCH...

Random weights, random pictures. The model returns boxes, logits and masks alone, is compiled by
torch.compile in its default mode, captured into a CUDA graph and replayed; the median, p90 and p99
of single replays between two events. fp32 runs without TF32. With --turn, the model is built and
compiled at once, and timed when the file exists: so compiling may go on beside other work.

Needs: pip install torch transformers
"""

import argparse
import os
import statistics
import time

try:
    import torch
    from transformers import RfDetrConfig, RfDetrForInstanceSegmentation
    from transformers.models.rf_detr import RfDetrDinov2Config
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install torch transformers")

# input side, windows a side, decoder layers, queries
VARIANTS = {"seg-nano": (312, 1, 4, 100), "seg-small": (384, 2, 4, 100), "seg-medium": (432, 2, 5, 200),
            "seg-large": (504, 2, 5, 200), "seg-xlarge": (624, 2, 6, 300), "seg-2xlarge": (768, 2, 6, 300)}


def build(name, device, dtype):
    side, windows, layers, queries = VARIANTS[name]
    backbone = RfDetrDinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=side,
                                  patch_size=12, num_windows=windows, out_indices=[3, 6, 9, 12],
                                  layer_norm_eps=1e-6, layerscale_value=1.0)
    config = RfDetrConfig(backbone_config=backbone, decoder_layers=layers, num_queries=queries, decoder_n_points=2,
                          num_labels=91, d_model=256, dropout=0.0, group_detr=1)
    model = RfDetrForInstanceSegmentation(config).to(device=device, dtype=dtype).eval()

    def forward(pixels):
        out = model(pixel_values=pixels)
        return out.pred_boxes, out.logits, out.pred_masks

    return forward, side


@torch.inference_mode()
def time_case(name, batch, options):
    dtype = torch.float16 if options.precision == "fp16" else torch.float32
    torch.manual_seed(0)
    forward, side = build(name, "cuda", dtype)
    pixels = torch.randn(batch, 3, side, side, device="cuda", dtype=dtype)
    start = time.time()
    compiled = torch.compile(forward)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            compiled(pixels)
    torch.cuda.synchronize()
    seconds = time.time() - start
    while options.turn and not os.path.exists(options.turn):
        time.sleep(0.2)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = compiled(pixels)
    for _ in range(20):
        graph.replay()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(options.rounds + 1)]
    events[0].record()
    for event in events[1:]:
        graph.replay()
        event.record()
    torch.cuda.synchronize()
    times = sorted(a.elapsed_time(b) for a, b in zip(events, events[1:]))
    assert all(bool(torch.isfinite(o).all()) for o in outputs)
    median = statistics.median(times)
    print(f"torch.compile {name:<14} {batch:>5} {options.precision:<5} {median:>9.4f} {times[int(0.9 * len(times))]:>9.4f} "
          f"{times[int(0.99 * len(times))]:>9.4f} {1000 * batch / median:>10.1f}   compiled in {seconds:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="VARIANT:BATCH")
    parser.add_argument("--precision", choices=["fp16", "fp32"], default="fp16")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--turn")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    for case in options.cases:
        name, _, batch = case.partition(":")
        time_case(name, int(batch or 1), options)


if __name__ == "__main__":
    main()
