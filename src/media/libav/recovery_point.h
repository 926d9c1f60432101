#pragma once

#include "media/libav/compat.h"

namespace rfseg::libav {

/// True for an H.264 packet from which pictures become whole only as more are decoded: its recovery
/// point tells of frames to come until then. Streams with periodic intra refresh have these instead
/// of key pictures, and demuxers call them key frames. False where nothing of that kind is told.
bool refreshes_gradually(const AVCodecParameters& stream, const AVPacket& packet);

}  // namespace rfseg::libav
