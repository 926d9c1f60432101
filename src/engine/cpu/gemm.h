#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "engine/cpu/kernels.h"
#include "engine/cpu/memory.h"
#include "engine/cpu/thread_team.h"

namespace rfseg::cpu {

/// A weight matrix [n, k] in the panels that the kernels read, with its bias.
struct PackedMatrix {
  int n = 0;
  int k = 0;
  float* panels = nullptr;
  float* bias = nullptr;  ///< [n], zeros where the layer has none; padded to whole panels
};

/// Memory for an [n, k] matrix, contents unspecified but for zeroed padding and bias.
PackedMatrix make_matrix(WeightMemory& memory, int n, int k);

/// Packs rows [first, first + rows) of `to` from row-major `from` [rows, k]. `first` must be a
/// multiple of kPanel unless another call fills the rest of that panel on the same thread.
void pack_rows(const float* from, int rows, PackedMatrix& to, int first);

/// Packs `pixels` rows [channels] of a channels-last map as columns: panels [channels + 1][kPanel],
/// the last row ones, so that a product's bias can ride along as one more input.
void pack_columns(const float* rows, int64_t ld, int pixels, int channels, float* panels);

/// What one thread of the team needs for itself: grows to the largest task and stays.
struct Worker {
  std::vector<const float*> inputs;
  std::vector<float*> outputs;
  std::vector<const float*> residuals;
  AlignedVector<float> scratch;
  AlignedVector<float> attention;
};

/// Buffers of the given numbers of floats in the worker's scratch memory, 64-byte aligned.
/// They replace those of the call before.
template <std::size_t kCount>
std::array<float*, kCount> carve(Worker& worker, const int64_t (&sizes)[kCount]) {
  int64_t total = 0;
  for (int64_t size : sizes) total += (size + 15) / 16 * 16;
  if (static_cast<int64_t>(worker.scratch.size()) < total) {
    worker.scratch = AlignedVector<float>(static_cast<std::size_t>(total));
  }
  std::array<float*, kCount> pieces;
  float* at = worker.scratch.data();
  for (std::size_t i = 0; i < kCount; ++i) {
    pieces[i] = at;
    at += (sizes[i] + 15) / 16 * 16;
  }
  return pieces;
}

/// What runs the network's loops.
struct Execution {
  const Kernels& kernels;
  ThreadTeam& team;
  std::vector<Worker>& workers;
};

/// Rows at a constant distance.
struct Rows {
  float* first;
  int64_t ld;
  float* operator()(int row) const { return first + row * ld; }
};
struct ConstRows {
  const float* first;
  int64_t ld;
  const float* operator()(int row) const { return first + row * ld; }
};

/// One product of a run of rows with a matrix, on the calling thread.
/// `input(row, tap)` gives the start of `k / taps` floats, `output(row)` and `residual(row)` the
/// start of n floats; a residual row may be the output row.
template <class Input, class Output, class Residual>
void multiply_rows(const Kernels& kernels, Worker& worker, const PackedMatrix& w, int rows,
                   int taps, Epilogue epilogue, const float* scale, Input&& input, Output&& output,
                   Residual&& residual);

/// The same for row-major input and output.
void multiply(const Kernels& kernels, Worker& worker, const PackedMatrix& w, int rows, ConstRows in,
              Rows out, Epilogue epilogue = Epilogue::kBias, ConstRows residual = {nullptr, 0},
              const float* scale = nullptr);

/// Runs the prepared pointers of `worker`: inputs [blocks][taps][gemm_rows], outputs and residuals
/// [rows].
void multiply_prepared(const Kernels& kernels, const Worker& worker, const PackedMatrix& w,
                       int rows, int taps, Epilogue epilogue, const float* scale,
                       bool has_residual);

/// Splits `rows` into about equal runs of whole multiples of `step`: enough runs to keep a team
/// busy, short enough for a run's data to stay in a core's cache. Calls body(first, count, worker).
template <class Body>
void for_row_runs(const Execution& ex, int rows, int step, int max_steps, Body&& body) {
  if (rows <= 0) return;
  const int steps = (rows + step - 1) / step;
  const int threads = ex.team.size();
  const int per_thread = (steps + threads * max_steps - 1) / (threads * max_steps);
  const int runs = std::min(steps, threads * per_thread);
  ex.team.run(runs, [&](int run, int worker) {
    const int first = static_cast<int>(int64_t{steps} * run / runs) * step;
    const int last = std::min(rows, static_cast<int>(int64_t{steps} * (run + 1) / runs) * step);
    body(first, last - first, ex.workers[worker]);
  });
}

/// Most register tiles of rows in a run.
inline constexpr int kRunTiles = 8;

/// As above in steps of a register tile.
template <class Body>
void for_rows(const Execution& ex, int rows, Body&& body) {
  const int step = ex.kernels.gemm_rows >= 4 ? ex.kernels.gemm_rows : 6;
  for_row_runs(ex, rows, step, kRunTiles, body);
}

/// Rows of the longest run that for_rows gives.
inline int max_run_rows(const Kernels& kernels) {
  return (kernels.gemm_rows >= 4 ? kernels.gemm_rows : 6) * kRunTiles;
}

/// Attention of `sequences` sequences of `tokens` rows each, all heads: qkv rows hold q, k and v
/// side by side ([3][heads * dim]); the result overwrites q.
void attend(const Execution& ex, float* qkv, int sequences, int tokens, int heads, int dim);

// ------------------------------------------------------------------------------------------------

template <class Input, class Output, class Residual>
void multiply_rows(const Kernels& kernels, Worker& worker, const PackedMatrix& w, int rows,
                   int taps, Epilogue epilogue, const float* scale, Input&& input, Output&& output,
                   Residual&& residual) {
  const int tile = kernels.gemm_rows;
  const int blocks = (rows + tile - 1) / tile;
  worker.inputs.resize(static_cast<std::size_t>(blocks) * taps * tile);
  worker.outputs.resize(rows);
  worker.residuals.resize(rows);
  const float** at = worker.inputs.data();
  for (int b = 0; b < blocks; ++b) {
    for (int t = 0; t < taps; ++t) {
      for (int i = 0; i < tile; ++i) *at++ = input(std::min(b * tile + i, rows - 1), t);
    }
  }
  const bool has_residual = epilogue == Epilogue::kAdd || epilogue == Epilogue::kScaleAdd ||
                            epilogue == Epilogue::kGeluAdd;
  for (int r = 0; r < rows; ++r) {
    worker.outputs[r] = output(r);
    if (has_residual) worker.residuals[r] = residual(r);
  }
  multiply_prepared(kernels, worker, w, rows, taps, epilogue, scale, has_residual);
}

}  // namespace rfseg::cpu
