#pragma once

#include <cstdint>
#include <string>

#include "media/libav/compat.h"

namespace rfseg::libav {

enum class Wholeness { kUnknown, kWhole, kCut };

/// Whether a file holds the bytes that it says it has: the samples of an MP4's index, the segment
/// of a Matroska file, the chunks of an AVI, the last tag of an FLV. kCut also where its last bytes
/// are zeros, as of a download that stopped. Moves `input`'s position: after its last packet.
Wholeness wholeness_of(AVFormatContext& input, const AVStream& stream);

/// Of an MP4 that was to be downloaded whole: the decoding time of its first sample of zeros, where
/// all behind are such too; AV_NOPTS_VALUE where the last one is none. No compressed picture begins
/// so. Moves `input`'s position as well.
int64_t zeros_from(AVFormatContext& input, const AVStream& stream);

/// Seconds of an ASF (WMV) that is shorter than its header says, of which FFmpeg does not tell how
/// long it was to be; -1 for others. Moves `input`'s position as well.
double length_of_cut_asf(AVFormatContext& input);

/// When the last packet of any stream ends, in seconds of the file's clock, from `near_s` on; less
/// than any time where the file `name` cannot be read again. `watch` is that of an interrupt
/// callback.
double last_packet_end(const std::string& name, double near_s, const AVIOInterruptCB& watch);

}  // namespace rfseg::libav
