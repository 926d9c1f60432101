// Any bytes, as a stream's parameters and packets, are read within their bounds; nothing but a key
// picture begins a group.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "media/libav/group_starts.h"
#include "media/libav/recovery_point.h"

// A byte for the codec, two for the size of the parameters, these, then packets behind two bytes of
// size each.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  if (size < 3) return 0;
  std::size_t at = 1;
  const auto part = [&] {
    std::size_t length = 0;
    if (size - at >= 2) length = static_cast<std::size_t>(data[at]) << 8 | data[at + 1];
    at = std::min(at + 2, size);
    length = std::min(length, size - at);
    // Exactly as large as it says, for the address sanitizer.
    std::vector<uint8_t> bytes(data + at, data + at + length);
    at += length;
    return bytes;
  };
  std::vector<uint8_t> extradata = part();
  AVCodecParameters* stream = avcodec_parameters_alloc();
  stream->codec_id = (data[0] & 1) != 0 ? AV_CODEC_ID_HEVC : AV_CODEC_ID_H264;
  stream->extradata = extradata.data();
  stream->extradata_size = static_cast<int>(extradata.size());
  rfseg::libav::GroupStarts begins(*stream);
  while (at < size) {
    std::vector<uint8_t> bytes = part();
    AVPacket packet{};
    packet.data = bytes.data();
    packet.size = static_cast<int>(bytes.size());
    packet.pts = packet.dts = static_cast<int64_t>(at);  // each later than the one before
    packet.flags = (data[0] & 2) != 0 ? 0 : AV_PKT_FLAG_KEY;
    if (begins(packet) && packet.flags == 0) std::abort();
    const bool gradual = rfseg::libav::refreshes_gradually(*stream, packet);
    if (gradual && stream->codec_id != AV_CODEC_ID_H264) std::abort();
  }
  stream->extradata = nullptr;
  avcodec_parameters_free(&stream);
  return 0;
}
