#pragma once

#include "checkpoint/byte_source.h"
#include "checkpoint/checkpoint.h"

namespace rfseg {

/// `open_checkpoint` on bytes from anywhere. Files beside it (config.json, class_names.txt) are
/// looked for in `folder`; "" = none.
Checkpoint open_checkpoint_source(std::shared_ptr<const ByteSource> source,
                                  const ModelOptions& options, const std::string& folder);

}  // namespace rfseg
