#pragma once

#include <memory>

#include "pipeline/batch_runner.h"

namespace rfseg {

/// Copies of pictures that outlive their source, in memory that is used again.
class PicturePool {
 public:
  explicit PicturePool(HostAllocator allocator);
  /// `view` becomes a copy of what it shows, and `held` its owner; nothing where it has an owner
  /// already. The copy may outlive the pool. Thread-safe.
  void keep(ImageView& view, HeldPixels& held);
  /// Buffers in existence: in use or waiting to be.
  int buffers() const;

 private:
  struct Shelf;
  std::shared_ptr<Shelf> shelf_;
};

}  // namespace rfseg
