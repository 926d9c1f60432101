#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <numeric>
#include <span>
#include <string>
#include <vector>

namespace rfseg {

/// Allocator with the alignment that the widest vector registers want. Elements are left
/// uninitialised by value-less construction, so that large buffers are not touched twice.
template <class T>
struct AlignedAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};
  AlignedAllocator() = default;
  template <class U>
  AlignedAllocator(const AlignedAllocator<U>&) {}
  T* allocate(std::size_t n) {
    if (n > SIZE_MAX / sizeof(T)) throw std::bad_array_new_length();
    return static_cast<T*>(::operator new(n * sizeof(T), kAlignment));
  }
  void deallocate(T* p, std::size_t) { ::operator delete(p, kAlignment); }
  template <class U>
  void construct(U* p) {
    ::new (static_cast<void*>(p)) U;
  }
  template <class U, class... Args>
  void construct(U* p, Args&&... args) {
    ::new (static_cast<void*>(p)) U(std::forward<Args>(args)...);
  }
  bool operator==(const AlignedAllocator&) const { return true; }
};

template <class T>
using AlignedVector = std::vector<T, AlignedAllocator<T>>;

using Shape = std::vector<int64_t>;

/// Number of elements of `shape`; 1 for a scalar. The caller has checked that it does not overflow.
inline int64_t element_count(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

/// "[3, 384, 384]", for messages.
std::string to_string(const Shape& shape);

/// An owned dense float32 array in C order.
struct Tensor {
  Shape shape;
  AlignedVector<float> data;

  Tensor() = default;
  /// Uninitialised contents.
  explicit Tensor(Shape s)
      : shape(std::move(s)), data(static_cast<std::size_t>(element_count(shape))) {}
  int64_t size() const { return static_cast<int64_t>(data.size()); }
  int64_t dim(std::size_t i) const { return shape.at(i); }
  bool empty() const { return data.empty(); }
};

}  // namespace rfseg
