#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace rfseg::cpu {

/// Memory for packed weights: taken piece by piece, freed all at once. Pages that are never written
/// cost nothing; large pages are asked for where the system has them. `take` is thread-safe.
class WeightMemory {
 public:
  WeightMemory() = default;
  ~WeightMemory();
  WeightMemory(const WeightMemory&) = delete;
  WeightMemory& operator=(const WeightMemory&) = delete;

  /// `count` floats, 64-byte aligned, contents unspecified.
  float* take(int64_t count);
  std::size_t bytes() const { return used_; }

 private:
  std::mutex mutex_;
  std::vector<void*> chunks_;
  std::size_t left_ = 0;
  char* at_ = nullptr;
  std::size_t used_ = 0;
};

/// Buffers of one forward pass in one block. Each is asked for with the first and the last stage
/// that touches it; buffers whose lives do not meet share memory.
class Workspace {
 public:
  ~Workspace();
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// Plans a buffer of `count` floats; *where is set by `allocate`.
  void plan(float** where, int64_t count, int first_stage, int last_stage);
  /// Places all planned buffers, 64-byte aligned, largest first at the lowest offset free.
  void allocate();
  /// Forgets the plan and frees the block.
  void clear();
  std::size_t bytes() const { return bytes_; }

 private:
  struct Piece {
    float** where;
    std::size_t bytes;
    int first, last;
    std::size_t offset = 0;
  };
  std::vector<Piece> pieces_;
  void* block_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace rfseg::cpu
