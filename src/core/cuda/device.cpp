#include "core/cuda/device.h"

#include <fmt/format.h>

#include <string_view>
#include <vector>

#include "core/cuda/usable.h"
#include "rfseg/error.h"

namespace rfseg::cuda {

namespace {

/// Why there is no GPU, for someone who may not have one.
std::string reason(cudaError_t status) {
  if (status == cudaSuccess) return "none found";
  if (status == cudaErrorInsufficientDriver) {
    return fmt::format("no NVIDIA driver, or one too old for CUDA {}.{}", CUDART_VERSION / 1000,
                       CUDART_VERSION % 1000 / 10);
  }
  return cudaGetErrorString(status);
}

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw Error(ErrorCode::kDevice, fmt::format("CUDA: {}: {}", what, cudaGetErrorString(status)));
}

cudaDeviceProp device_properties(int device) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    cudaGetLastError();
    throw Error(ErrorCode::kDevice, fmt::format("CUDA: no usable GPU ({})", reason(status)));
  }
  if (device < 0 || device >= count) {
    throw Error(ErrorCode::kDevice,
                fmt::format("CUDA: there is no GPU {}; this machine has 0..{}", device, count - 1));
  }
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "reading the device's properties");
  if (properties.major < 8) {
    throw Error(ErrorCode::kDevice,
                fmt::format("CUDA: {} has compute capability {}.{}; 8.0 or newer is needed",
                            properties.name, properties.major, properties.minor));
  }
  return properties;
}

cudaDeviceProp open_device(int device) {
  const cudaDeviceProp properties = device_properties(device);
  check(cudaSetDevice(device), "choosing the device");
  return properties;
}

bool Buffer::reserve(std::size_t bytes) {
  if (bytes <= size_) return false;
  release();
  void* p = nullptr;
  const bool device = kind_ == Kind::kDevice;
  const cudaError_t status =
      device ? cudaMalloc(&p, bytes) : cudaHostAlloc(&p, bytes, cudaHostAllocMapped);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    constexpr double kMiB = 1 << 20;
    throw Error(
        ErrorCode::kDevice,
        device ? fmt::format("GPU out of memory: {:.1f} MiB asked for, {:.1f} of {:.1f} "
                             "MiB are free; a smaller --batch needs less",
                             static_cast<double>(bytes) / kMiB, static_cast<double>(free) / kMiB,
                             static_cast<double>(total) / kMiB)
               : fmt::format("no {:.1f} MiB of pinned host memory to be had",
                             static_cast<double>(bytes) / kMiB));
  }
  check(status, device ? "allocating device memory" : "allocating pinned memory");
  data_ = static_cast<std::byte*>(p);
  size_ = bytes;
  return true;
}

void Buffer::release() {
  if (data_ != nullptr) kind_ == Kind::kDevice ? cudaFree(data_) : cudaFreeHost(data_);
  data_ = nullptr;
  size_ = 0;
}

void upload(void* to, const void* from, std::size_t bytes, const char* what) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), what);
  check(cudaStreamSynchronize(nullptr), what);
}

Stream::Stream() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
}
Stream::~Stream() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}
void Stream::synchronize(const char* what) const { check(cudaStreamSynchronize(stream_), what); }

Event::Event(bool timing) {
  check(cudaEventCreateWithFlags(&event_, timing ? cudaEventDefault : cudaEventDisableTiming),
        "creating an event");
}
Event::~Event() {
  if (event_ != nullptr) cudaEventDestroy(event_);
}

float elapsed_ms(const Event& from, const Event& to) {
  float ms = 0;
  check(cudaEventElapsedTime(&ms, from, to), "reading a timer");
  return ms;
}

void Graph::reset() {
  if (exec_ != nullptr) cudaGraphExecDestroy(exec_);
  exec_ = nullptr;
}

void Graph::begin(cudaStream_t stream) {
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "starting a capture");
}

void Graph::abandon(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(stream, &graph);
  if (graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();
}

namespace {

int count_kernels(cudaGraph_t graph) {
  std::size_t count = 0;
  if (cudaGraphGetNodes(graph, nullptr, &count) != cudaSuccess) return 0;
  std::vector<cudaGraphNode_t> nodes(count);
  if (cudaGraphGetNodes(graph, nodes.data(), &count) != cudaSuccess) return 0;
  int kernels = 0;
  for (const cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type;
    if (cudaGraphNodeGetType(node, &type) != cudaSuccess) continue;
    if (type == cudaGraphNodeTypeKernel) ++kernels;
    cudaGraph_t inner = nullptr;
    if (type == cudaGraphNodeTypeGraph &&
        cudaGraphChildGraphNodeGetGraph(node, &inner) == cudaSuccess) {
      kernels += count_kernels(inner);
    }
  }
  return kernels;
}

}  // namespace

void Graph::end(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream, &graph), "ending a capture");
  reset();
  kernels_ = count_kernels(graph);
  const cudaError_t status = cudaGraphInstantiate(&exec_, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "instantiating a graph");
}

void Graph::launch(cudaStream_t stream) const {
  check(cudaGraphLaunch(exec_, stream), "launching a graph");
}

std::vector<std::string> architectures() {
  std::vector<std::string> names(1);
  for (const char c : std::string_view(RFSEG_CUDA_ARCHITECTURES)) {
    if (c == ',') {
      names.emplace_back();
    } else {
      names.back() += c;
    }
  }
  return names;
}

bool usable(std::string* why) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return true;
  cudaGetLastError();
  if (why != nullptr) {
    *why = fmt::format("no usable GPU ({})", reason(status));
  }
  return false;
}

}  // namespace rfseg::cuda
