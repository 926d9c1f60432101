#include "engine/cpu/memory.h"

#include <algorithm>
#include <new>
#include <numeric>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace rfseg::cpu {
namespace {

constexpr std::size_t kLargePage = std::size_t{2} << 20;
constexpr std::size_t kChunk = std::size_t{64} << 20;
constexpr std::align_val_t kAlignment{kLargePage};

std::size_t round_up(std::size_t n, std::size_t step) { return (n + step - 1) / step * step; }

void* allocate_pages(std::size_t bytes) {
  void* p = ::operator new(bytes, kAlignment);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  madvise(p, bytes / kLargePage * kLargePage, MADV_HUGEPAGE);  // advice: failing costs only speed
#endif
  return p;
}

}  // namespace

WeightMemory::~WeightMemory() {
  for (void* p : chunks_) ::operator delete(p, kAlignment);
}

float* WeightMemory::take(int64_t count) {
  const std::size_t bytes = round_up(static_cast<std::size_t>(count) * sizeof(float), 64);
  const std::lock_guard lock(mutex_);
  if (bytes > left_) {
    const std::size_t size = round_up(std::max(bytes, kChunk), kLargePage);
    chunks_.reserve(chunks_.size() + 1);
    at_ = static_cast<char*>(allocate_pages(size));
    chunks_.push_back(at_);
    left_ = size;
  }
  float* p = reinterpret_cast<float*>(at_);
  at_ += bytes;
  left_ -= bytes;
  used_ += bytes;
  return p;
}

Workspace::~Workspace() { clear(); }

void Workspace::clear() {
  if (block_) ::operator delete(block_, kAlignment);
  block_ = nullptr;
  bytes_ = 0;
  pieces_.clear();
}

void Workspace::plan(float** where, int64_t count, int first_stage, int last_stage) {
  pieces_.push_back({where, round_up(static_cast<std::size_t>(count) * sizeof(float), 64),
                     first_stage, last_stage});
}

void Workspace::allocate() {
  std::vector<Piece*> order(pieces_.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = &pieces_[i];
  std::stable_sort(order.begin(), order.end(),
                   [](const Piece* a, const Piece* b) { return a->bytes > b->bytes; });
  std::vector<const Piece*> placed;  // by offset
  for (Piece* piece : order) {
    std::size_t offset = 0;
    for (const Piece* other : placed) {
      if (other->last < piece->first || piece->last < other->first) continue;
      if (offset + piece->bytes <= other->offset) break;
      offset = std::max(offset, other->offset + other->bytes);
    }
    piece->offset = offset;
    bytes_ = std::max(bytes_, offset + piece->bytes);
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), piece,
                         [](const Piece* a, const Piece* b) { return a->offset < b->offset; }),
        piece);
  }
  block_ = allocate_pages(std::max<std::size_t>(bytes_, 64));
  for (const Piece& piece : pieces_) {
    *piece.where = reinterpret_cast<float*>(static_cast<char*>(block_) + piece.offset);
  }
}

}  // namespace rfseg::cpu
