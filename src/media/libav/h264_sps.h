#pragma once

#include <cstddef>
#include <cstdint>

namespace rfseg::libav {

/// Whether an H.264 sequence parameter set tells how far pictures are reordered (max_num_reorder_
/// frames, or a profile without B pictures). Without that FFmpeg's decoder learns it from the
/// pictures, and loses one each time that it has to think again: several decoders of one stream
/// would lose more than one does. `unit`: a NAL unit from its header on.
bool tells_reordering(const uint8_t* unit, std::size_t size);

}  // namespace rfseg::libav
