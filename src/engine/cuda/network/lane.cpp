#include <algorithm>
#include <vector>

#include "engine/cuda/network/pass.h"

// Two kernels before one, of which the one in the same stream need not have ended: a captured graph
// has an edge for each. A launch attribute would make neither of two edges programmatic.

namespace rfseg::cuda {

#if CUDART_VERSION >= 12030

namespace {

#if CUDART_VERSION >= 13000
constexpr auto kCaptureInfo = &cudaStreamGetCaptureInfo;
constexpr auto kSetDependencies = &cudaStreamUpdateCaptureDependencies;
#else
constexpr auto kCaptureInfo = &cudaStreamGetCaptureInfo_v3;
constexpr auto kSetDependencies = &cudaStreamUpdateCaptureDependencies_v2;
#endif

/// What the stream's next node depends on.
struct Dependencies {
  bool capturing = false;
  std::vector<cudaGraphNode_t> nodes;
  std::vector<cudaGraphEdgeData> edges;

  explicit Dependencies(cudaStream_t stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const cudaGraphNode_t* from = nullptr;
    const cudaGraphEdgeData* data = nullptr;
    std::size_t count = 0;
    check(kCaptureInfo(stream, &status, nullptr, nullptr, &from, &data, &count),
          "asking for a capture");
    capturing = status == cudaStreamCaptureStatusActive;
    if (!capturing) return;
    nodes.assign(from, from + count);
    edges.resize(count);
    if (data != nullptr) std::copy_n(data, count, edges.begin());
  }
};

}  // namespace

void Lane::join(cudaEvent_t event) {
  const Dependencies before(stream_);
  wait(event);
  if (!overlap_ || !before.capturing || before.nodes.size() != 1) return;
  cudaGraphNodeType type;
  check(cudaGraphNodeGetType(before.nodes[0], &type), "asking for a node's type");
  if (type != cudaGraphNodeTypeKernel) return;
  Dependencies now(stream_);
  for (std::size_t i = 0; i < now.nodes.size(); ++i) {
    if (now.nodes[i] != before.nodes[0]) continue;
    now.edges[i] = {};
    now.edges[i].from_port = cudaGraphKernelNodePortProgrammatic;
    now.edges[i].type = cudaGraphDependencyTypeProgrammatic;
  }
  check(kSetDependencies(stream_, now.nodes.data(), now.edges.data(), now.nodes.size(),
                         cudaStreamSetCaptureDependencies),
        "letting a kernel start early");
}

#else  // graphs without kinds of edges

void Lane::join(cudaEvent_t event) { wait(event); }

#endif

}  // namespace rfseg::cuda
