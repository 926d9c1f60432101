"""What PyTorch needs on the GPU for the work of bench_preprocess_cuda: uint8 [H,W,3] in device memory to
float / 255, permuted, F.interpolate (bilinear, antialias=True), normalised; eager, torch.compile, both in CUDA
graphs over rotating sources, and without antialiasing.

python peer_torch_cuda.py [--calls N] [WxH:NETWORK ...]

Needs: pip install torch
"""
import argparse

try:
    import torch
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install torch")

parser = argparse.ArgumentParser()
parser.add_argument("settings", nargs="*", default=["1920x1080:312"])
parser.add_argument("--calls", type=int, default=100)
parser.add_argument("--compile", action="store_true")
args = parser.parse_args()
mean = torch.tensor([0.485, 0.456, 0.406], device="cuda").view(3, 1, 1)
std = torch.tensor([0.229, 0.224, 0.225], device="cuda").view(3, 1, 1)


def preprocess(pixels, size, antialias):
    unit = pixels.permute(2, 0, 1)[None].float() / 255
    resized = torch.nn.functional.interpolate(unit, (size, size), mode="bilinear", align_corners=False, antialias=antialias)
    return (resized - mean) / std


def microseconds(run, calls, per_call):
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    times = []
    for i in range(calls + 5):
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / per_call)
    return torch.tensor(times[5:]).quantile(torch.tensor([0.5, 0.9])).tolist()


print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, us a picture, p50 p90")
for setting in args.settings:
    picture, size = setting.split(":")[:2]
    width, height = map(int, picture.split("x"))
    sources = [torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, device="cuda") for _ in range(16)]
    for antialias in (True, False):
        for name, function in [("eager", preprocess)] + ([("compiled", torch.compile(preprocess))] if args.compile else []):
            for source in sources[:3]:
                function(source, int(size), antialias)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for source in sources:
                    function(source, int(size), antialias)
            p50, p90 = microseconds(graph.replay, args.calls, len(sources))
            print(f"{setting} {'antialias' if antialias else 'plain':10s}{name} in a graph: {p50:8.2f} {p90:8.2f}")
