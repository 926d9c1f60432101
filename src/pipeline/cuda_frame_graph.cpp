#include "pipeline/cuda_frame_graph.h"

#include <utility>

#include "rfseg/error.h"

namespace rfseg {

using cuda::check;

void FrameGraph::reset() {
  if (exec_ != nullptr) cudaGraphExecDestroy(exec_);
  if (graph_ != nullptr) cudaGraphDestroy(graph_);
  exec_ = nullptr;
  graph_ = nullptr;
  nodes_.clear();
  in_force_.clear();
}

void FrameGraph::enqueue(cudaStream_t stream, std::span<const Copy> copies) {
  for (const Copy& copy : copies) {
    check(cudaMemcpyAsync(copy.to, copy.from, copy.bytes, cudaMemcpyHostToDevice, stream),
          "copying a frame");
  }
}

cudaError_t FrameGraph::end(cudaStream_t stream) {
  const cudaError_t status = cudaStreamEndCapture(stream, &graph_);
  if (status != cudaSuccess) {
    graph_ = nullptr;
    cudaGetLastError();
  }
  return status;
}

void FrameGraph::finish(std::span<const Copy> copies) {
  std::size_t count = 0;
  check(cudaGraphGetNodes(graph_, nullptr, &count), "reading a captured graph");
  std::vector<cudaGraphNode_t> all(count);
  check(cudaGraphGetNodes(graph_, all.data(), &count), "reading a captured graph");
  nodes_.assign(copies.size(), nullptr);
  for (const cudaGraphNode_t node : all) {
    cudaGraphNodeType type;
    check(cudaGraphNodeGetType(node, &type), "reading a captured graph");
    if (type != cudaGraphNodeTypeMemcpy) continue;
    cudaMemcpy3DParms parameters;
    check(cudaGraphMemcpyNodeGetParams(node, &parameters), "reading a captured graph");
    for (std::size_t i = 0; i < copies.size(); ++i) {
      if (parameters.dstPtr.ptr == copies[i].to) nodes_[i] = node;
    }
  }
  for (const cudaGraphNode_t node : nodes_) {
    if (node == nullptr) throw Error(ErrorCode::kInternal, "CUDA: a graph lost its upload");
  }
  check(cudaGraphInstantiate(&exec_, graph_, 0), "making a graph");
  in_force_.assign(copies.begin(), copies.end());
}

void FrameGraph::launch(cudaStream_t stream, std::span<const Copy> copies) {
  if (copies.size() != nodes_.size()) {
    throw Error(ErrorCode::kInternal, "CUDA: a graph was captured with other uploads");
  }
  for (std::size_t i = 0; i < copies.size(); ++i) {
    if (copies[i] == in_force_[i]) continue;
    check(cudaGraphExecMemcpyNodeSetParams1D(exec_, nodes_[i], copies[i].to, copies[i].from,
                                             copies[i].bytes, cudaMemcpyHostToDevice),
          "changing a graph's upload");
    in_force_[i] = copies[i];
  }
  check(cudaGraphLaunch(exec_, stream), "launching a graph");
}

}  // namespace rfseg
