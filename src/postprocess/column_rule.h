#pragma once

namespace rfseg {

/// What a logit column means for selection.
struct ColumnRule {
  int class_id = -1;    ///< output class id, -1 = dropped
  float threshold = 0;  ///< strict
};

}  // namespace rfseg
