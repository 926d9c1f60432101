#pragma once

#include <string>

#include "media/libav/compat.h"
#include "media/libav/libav_api.h"

namespace rfseg::libav {

/// The decoder whose work NVDEC can take over through FFmpeg's hwaccel, for streams that NVDEC
/// decodes to the very bits of the CPU's decoder: H.264, HEVC, VP8, VP9 and AV1, 4:2:0 of 8 or 10
/// bits. nullptr and `why` for others. What this GPU cannot do is found out later, by get_format.
const AVCodec* find_gpu_decoder(const AVCodecParameters& stream, std::string& why);

/// FFmpeg's handle of the CUDA context that is current on this thread, with `stream` for what
/// decoders write. nullptr and `why` where the driver's libraries are missing.
AvPtr<AVBufferRef> open_gpu_device(void* stream, std::string& why);

/// How many units of the current GPU decode this stream's codec; 1 where that cannot be told.
int gpu_decoder_units(const AVCodecParameters& stream);

/// Makes `view` one of the host's memory. Throws what the host told.
void keep(const Keeper& keeper, FrameView& view);

/// Decoded frames that are held outside of the decoder, beside the one read last.
inline constexpr int kExtraSurfaces = 1;

}  // namespace rfseg::libav
