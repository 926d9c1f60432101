// Post-processing on the GPU, from outputs in device memory to all compressed bytes in host memory.
//
//   bench_postprocess_cuda [--calls N] NAME=FOLDER[:HxW][:batch] ...
//
// A NAME with "@N" uses N blocks a mask, one with "boxes" in it leaves out the masks, one with
// "inference" follows that convention; "dense" and "bits" make masks of bytes or bits of pixels,
// "device" leaves results there; "apart" selects by a kernel of its own; "spin" waits for a word in
// memory instead of the stream (the kernels' times are without). FOLDER holds case folders
// with boxes.npy [1,Q,4], logits.npy [1,Q,K], masks.npy [1,Q,rows,columns]. Every call takes the
// next case, in turn. All settings take turns in one run, so that they meet the same machine. For
// each: survivors, runs and bytes that reach the host a call; launches a call; kernel time, from
// graphs of many calls in a row (mean of such a graph, percentiles over repetitions); wall time of
// a call by launches and of a graph replay, each closed by its one synchronisation; mean, p50, p90,
// p99. Beside masks of pixels on the device: the same for cudaMemsetAsync of as many bytes.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/coco_rle.h"
#include "core/cuda/device.h"
#include "core/npy.h"
#include "postprocess/cuda/cuda_postprocessor.h"

namespace rfseg {
namespace {

using Clock = std::chrono::steady_clock;

void ok(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

double microseconds(Clock::time_point from) {
  return std::chrono::duration<double, std::micro>(Clock::now() - from).count();
}

double percentile(std::vector<double> v, double p) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[static_cast<std::size_t>(p * static_cast<double>(v.size() - 1))];
}

void* to_device(const std::vector<float>& values) {
  void* p = nullptr;
  ok(cudaMalloc(&p, values.size() * sizeof(float)));
  cuda::upload(p, values.data(), values.size() * sizeof(float), "copying a scene");
  return p;
}

struct Setting {
  std::string name;
  std::vector<DeviceOutputs> inputs;  ///< taken in turn
  std::vector<PreprocessGeometry> pictures;
  PostprocessSpec spec;
  std::unique_ptr<CudaPostprocessor> processor;
  std::vector<cudaGraphExec_t> graphs;  ///< one an input
  cudaGraphExec_t all = nullptr;        ///< all inputs in a row
  double survivors = 0, runs = 0, bytes = 0;
  std::size_t nodes = 0;
  bool pixels = false, on_device = false;
  std::vector<double> direct, graph, kernel, objects;
  // cudaMemsetAsync of each input's bytes of pixels
  uint8_t* memory = nullptr;
  std::vector<std::size_t> sizes;
  cudaGraphExec_t clear_all = nullptr;
  std::vector<double> clear_wall, clear_kernel;
};

Setting read_setting(const std::string& text, cudaStream_t stream) {
  Setting s;
  const std::size_t equals = text.find('=');
  s.name = text.substr(0, equals);
  std::string rest = text.substr(equals + 1);
  int height = 1080, width = 1920, batch = 1;
  if (const std::size_t colon = rest.find(':'); colon != std::string::npos) {
    if (std::sscanf(rest.c_str() + colon, ":%dx%d:%d", &height, &width, &batch) < 2) {
      throw std::runtime_error(text + ": expected NAME=FOLDER[:HxW][:batch]");
    }
    rest.resize(colon);
  }
  std::vector<std::filesystem::path> folders;
  for (const auto& entry : std::filesystem::directory_iterator(rest)) {
    if (std::filesystem::exists(entry.path() / "masks.npy")) folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end());
  if (folders.empty()) throw std::runtime_error(rest + ": no cases");
  std::vector<Tensor> boxes, logits, masks;
  for (const auto& folder : folders) {
    boxes.push_back(read_npy(folder / "boxes.npy"));
    logits.push_back(read_npy(folder / "logits.npy"));
    masks.push_back(read_npy(folder / "masks.npy"));
  }
  const std::size_t count = batch == 1 ? folders.size() : 4;
  for (std::size_t i = 0; i < count; ++i) {
    std::vector<float> b, l, m;
    for (std::size_t k = 0; k < static_cast<std::size_t>(batch); ++k) {
      const std::size_t from = (i * 7 + k) % folders.size();
      const std::size_t at = batch == 1 ? i : from;
      b.insert(b.end(), boxes[at].data.begin(), boxes[at].data.end());
      l.insert(l.end(), logits[at].data.begin(), logits[at].data.end());
      m.insert(m.end(), masks[at].data.begin(), masks[at].data.end());
    }
    DeviceOutputs o;
    o.boxes = to_device(b);
    o.logits = to_device(l);
    o.masks = to_device(m);
    o.batch = batch;
    o.queries = static_cast<int>(logits[0].dim(1));
    o.classes = static_cast<int>(logits[0].dim(2));
    o.mask_rows = static_cast<int>(masks[0].dim(2));
    o.mask_cols = static_cast<int>(masks[0].dim(3));
    s.inputs.push_back(o);
  }
  s.spec.num_select = s.inputs[0].queries;
  if (s.name.find("inference") != std::string::npos) s.spec.like = Convention::kInference;
  if (s.name.find("boxes") != std::string::npos) s.spec.masks = MaskFormat::kNone;
  s.pictures.assign(static_cast<std::size_t>(batch),
                    PreprocessGeometry::stretch(height, width, s.inputs[0].mask_rows * 4,
                                                s.inputs[0].mask_cols * 4));
  CudaPostprocessor::Limits limits;
  if (const std::size_t at = s.name.find('@'); at != std::string::npos) {
    limits.blocks_per_mask = std::atoi(s.name.c_str() + at + 1);
  }
  if (s.name.find("dense") != std::string::npos) limits.mask_bytes = cuda::MaskBytes::kDense;
  if (s.name.find("bits") != std::string::npos) limits.mask_bytes = cuda::MaskBytes::kBits;
  limits.selection_apart = s.name.find("apart") != std::string::npos;
  limits.spin = s.name.find("spin") != std::string::npos;
  s.pixels = limits.mask_bytes != cuda::MaskBytes::kRle;
  s.on_device = s.name.find("device") != std::string::npos;
  if (s.on_device) limits.place = CudaPostprocessor::Place::kDevice;
  s.processor = std::make_unique<CudaPostprocessor>(0, limits);
  for (const DeviceOutputs& input : s.inputs) {
    std::size_t pixel_bytes = 0;
    for (const Detections& found : s.processor->run(input, s.spec, s.pictures, stream)) {
      int last_query = -1;
      s.bytes += s.on_device ? 0 : 48.0 * static_cast<double>(found.items.size()) + 16;
      for (const Detection& item : found.items) {
        s.survivors += 1;
        if (s.pixels && item.query != last_query) {  // these cases have one class a query
          pixel_bytes += cuda::mask_bytes(height, width, limits.mask_bytes);
          last_query = item.query;
        }
        if (item.mask == nullptr) continue;
        if (!s.on_device) s.bytes += static_cast<double>(item.mask->counts.size());
        s.runs += static_cast<double>(
            rle_from_string(item.mask->counts, height, width).counts.size() / 2);
      }
    }
    s.sizes.push_back(pixel_bytes);
    if (!s.on_device) s.bytes += static_cast<double>(pixel_bytes);
  }
  const auto capture = [&](auto&& body) {
    cudaGraph_t graph;
    ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    body();
    ok(cudaStreamEndCapture(stream, &graph));
    if (s.nodes == 0) ok(cudaGraphGetNodes(graph, nullptr, &s.nodes));
    cudaGraphExec_t executable;
    ok(cudaGraphInstantiate(&executable, graph, 0));
    ok(cudaGraphDestroy(graph));
    return executable;
  };
  for (const DeviceOutputs& input : s.inputs) {
    s.graphs.push_back(capture([&] { s.processor->enqueue(input, stream); }));
  }
  s.all = capture([&] {
    for (const DeviceOutputs& input : s.inputs) s.processor->enqueue(input, stream);
  });
  const auto results = s.processor->wait(stream);
  if (s.pixels && s.on_device) {
    s.memory = const_cast<uint8_t*>(results.bytes);
    s.clear_all = capture([&] {
      for (const std::size_t size : s.sizes) ok(cudaMemsetAsync(s.memory, 0, size, stream));
    });
  }
  const double n = static_cast<double>(s.inputs.size());
  s.survivors /= n;
  s.runs /= n;
  s.bytes /= n;
  return s;
}

void measure(Setting& s, cudaStream_t stream, cudaEvent_t begin, cudaEvent_t end, int round,
             bool keep) {
  const std::size_t i = static_cast<std::size_t>(round) % s.inputs.size();
  const DeviceOutputs& input = s.inputs[i];
  auto start = Clock::now();
  s.processor->prepare(input, s.spec, s.pictures, stream);
  s.processor->enqueue(input, stream);
  s.processor->wait(stream);
  if (keep) s.direct.push_back(microseconds(start));
  start = Clock::now();
  s.processor->prepare(input, s.spec, s.pictures, stream);
  ok(cudaGraphLaunch(s.graphs[i], stream));
  s.processor->wait(stream);
  if (keep) s.graph.push_back(microseconds(start));
  start = Clock::now();
  const auto results = s.processor->results();
  if (keep) s.objects.push_back(microseconds(start));
  if (round % 10 == 0) {
    ok(cudaEventRecord(begin, stream));
    ok(cudaGraphLaunch(s.all, stream));
    ok(cudaEventRecord(end, stream));
    ok(cudaStreamSynchronize(stream));
    float ms = 0;
    ok(cudaEventElapsedTime(&ms, begin, end));
    if (keep) s.kernel.push_back(1000.0 * ms / static_cast<double>(s.inputs.size()));
  }
  if (s.clear_all == nullptr) return;
  start = Clock::now();
  ok(cudaMemsetAsync(s.memory, 0, s.sizes[i], stream));
  ok(cudaStreamSynchronize(stream));
  if (keep) s.clear_wall.push_back(microseconds(start));
  if (round % 10 == 0) {
    ok(cudaEventRecord(begin, stream));
    ok(cudaGraphLaunch(s.clear_all, stream));
    ok(cudaEventRecord(end, stream));
    ok(cudaStreamSynchronize(stream));
    float ms = 0;
    ok(cudaEventElapsedTime(&ms, begin, end));
    if (keep) s.clear_kernel.push_back(1000.0 * ms / static_cast<double>(s.inputs.size()));
  }
}

int run(int argc, char** argv) {
  int calls = 2000;
  std::vector<std::string> wanted;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--calls") == 0 && i + 1 < argc) {
      calls = std::atoi(argv[++i]);
    } else {
      wanted.push_back(argv[i]);
    }
  }
  if (wanted.empty()) throw std::runtime_error("give at least one NAME=FOLDER[:HxW][:batch]");
  ok(cudaSetDeviceFlags(cudaDeviceScheduleSpin));
  cudaStream_t stream;
  cudaEvent_t begin, end;
  ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  ok(cudaEventCreate(&begin));
  ok(cudaEventCreate(&end));
  std::vector<Setting> settings;
  for (const std::string& text : wanted) settings.push_back(read_setting(text, stream));
  const int warm = calls / 10;
  for (int round = 0; round < warm + calls; ++round) {
    for (Setting& s : settings) measure(s, stream, begin, end, round, round >= warm);
  }
  std::printf("%s, %d calls a setting, times in us; objects: results() after the call\n",
              settings[0].processor->device_name().c_str(), calls);
  std::printf("%-26s %6s %8s %11s %5s | %-31s | %-31s | %-31s | %s\n", "setting", "surv", "runs",
              "to host", "nodes", "kernels: mean p50 p90 p99", "launches: mean p50 p90 p99",
              "graph: mean p50 p90 p99", "objects p50");
  const auto show = [](const std::vector<double>& v) {
    const double mean = std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size());
    std::printf(" | %7.2f %7.2f %7.2f %7.2f", mean, percentile(v, 0.5), percentile(v, 0.9),
                percentile(v, 0.99));
  };
  for (const Setting& s : settings) {
    std::printf("%-26s %6.1f %8.1f %11.1f %5zu", s.name.c_str(), s.survivors, s.runs, s.bytes,
                s.nodes);
    show(s.kernel);
    show(s.direct);
    show(s.graph);
    std::printf(" | %8.2f\n", percentile(s.objects, 0.5));
    if (s.clear_all == nullptr) continue;
    const double size =
        static_cast<double>(std::accumulate(s.sizes.begin(), s.sizes.end(), std::size_t{0})) /
        static_cast<double>(s.sizes.size());
    std::printf("%-26s %6s %8s %11.1f %5d", "  cudaMemsetAsync", "", "", size, 1);
    show(s.clear_kernel);
    show(s.clear_wall);
    std::printf(" | ratio of kernels %.3f, of walls %.3f\n",
                percentile(s.kernel, 0.5) / percentile(s.clear_kernel, 0.5),
                percentile(s.direct, 0.5) / percentile(s.clear_wall, 0.5));
  }
  return 0;
}

}  // namespace
}  // namespace rfseg

int main(int argc, char** argv) {
  try {
    return rfseg::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
