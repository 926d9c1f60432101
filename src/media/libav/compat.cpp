#include "media/libav/compat.h"

#include <dlfcn.h>

#include <mutex>

namespace rfseg::libav {

const int32_t* display_matrix(const AVStream& stream) {
#if LIBAVFORMAT_VERSION_INT >= AV_VERSION_INT(60, 15, 100)
  const AVPacketSideData* data =
      av_packet_side_data_get(stream.codecpar->coded_side_data, stream.codecpar->nb_coded_side_data,
                              AV_PKT_DATA_DISPLAYMATRIX);
  const uint8_t* bytes = data == nullptr ? nullptr : data->data;
  const size_t size = data == nullptr ? 0 : data->size;
#else
  size_t size = 0;
  const uint8_t* bytes = av_stream_get_side_data(&stream, AV_PKT_DATA_DISPLAYMATRIX, &size);
#endif
  return size >= 9 * sizeof(int32_t) ? reinterpret_cast<const int32_t*>(bytes) : nullptr;
}

#ifdef AV_CODEC_FLAG_COPY_OPAQUE
void request_marks(AVCodecContext& decoder) { decoder.flags |= AV_CODEC_FLAG_COPY_OPAQUE; }
void mark_packet(AVCodecContext&, AVPacket& packet, int64_t mark) {
  packet.opaque = reinterpret_cast<void*>(static_cast<intptr_t>(mark));
}
int64_t mark_of(const AVFrame& frame) { return reinterpret_cast<intptr_t>(frame.opaque); }
#else
void request_marks(AVCodecContext&) {}
void mark_packet(AVCodecContext& decoder, AVPacket&, int64_t mark) {
  decoder.reordered_opaque = mark;
}
int64_t mark_of(const AVFrame& frame) { return frame.reordered_opaque; }
#endif

bool is_damaged(const AVFrame& frame) {
  return (frame.flags & AV_FRAME_FLAG_CORRUPT) != 0 || frame.decode_error_flags != 0;
}

const AVInputFormat* capture_format() {
  static std::once_flag once;
  std::call_once(once, [] {
    // Its major version is libavformat's since FFmpeg 5.
    const char* name = "libavdevice.so." AV_STRINGIFY(LIBAVFORMAT_VERSION_MAJOR);
    void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return;
    using Register = void (*)();
    const auto register_all = reinterpret_cast<Register>(dlsym(library, "avdevice_register_all"));
    if (register_all != nullptr) register_all();
  });
  return av_find_input_format("v4l2");
}

const char* library_versions() {
  static const std::string text = [] {
    const auto version = [](const char* name, unsigned v) {
      return std::string(name) + " " + std::to_string(AV_VERSION_MAJOR(v)) + "." +
             std::to_string(AV_VERSION_MINOR(v)) + "." + std::to_string(AV_VERSION_MICRO(v));
    };
    return std::string("FFmpeg ") + av_version_info() + " (" +
           version("libavformat", avformat_version()) + ", " +
           version("libavcodec", avcodec_version()) + ", " +
           version("libswscale", swscale_version()) + ")";
  }();
  return text.c_str();
}

}  // namespace rfseg::libav
