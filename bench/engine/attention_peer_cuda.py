"""PyTorch's attention (flash and cuDNN) at seg-nano's shapes in a CUDA graph: the yardstick of
bench_engine_cuda_hopper. Usage: attention_peer_cuda.py [BATCH ...]

Needs: pip install torch
"""

import sys

try:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install torch")


def time_us(work):
    for _ in range(3):
        work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(20):
            work()
    graph.replay()
    times = []
    for _ in range(7):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1000 / 20)
    return sorted(times)[3]


for batch in [int(b) for b in sys.argv[1:]] or [32, 8, 1]:
    qkv = torch.randn(batch, 677, 3, 6, 64, device="cuda", dtype=torch.float16)
    q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        try:
            with sdpa_kernel(backend):
                t = time_us(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v))
            flop = 4 * batch * 6 * 677 * 677 * 64
            print(f"torch {backend.name} batch {batch}: {t:.2f} us {flop / t * 1e-6:.0f} TFLOP/s")
        except RuntimeError as error:
            print(f"torch {backend.name} batch {batch}: {str(error)[:100]}")
