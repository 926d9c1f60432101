// StreamReader: decoding on a GPU, and back to the CPU where that does not take the stream.

#include <new>
#include <utility>

#include "media/libav/gpu_decoding.h"
#include "media/libav/reader.h"
#include "media/libav/support.h"

namespace rfseg::libav {

void StreamReader::tell_fallback(const std::string& why) const {
  log(options_.tell_fallback ? kLogWarning : kLogDebug, name_ + ": decoded on the CPU: " + why);
}

/// False, having told why, when the stream is none for NVDEC.
bool StreamReader::open_gpu_decoder() {
  std::string why;
  const AVCodec* codec = find_gpu_decoder(*stream_->codecpar, why);
  if (codec != nullptr && !turn_of(display_matrix(*stream_)).is_identity()) {
    why = "its pictures have to be turned";
    codec = nullptr;
  }
  if (codec != nullptr) gpu_ = open_gpu_device(options_.cuda_stream, why);
  if (!gpu_) {
    gpu_refused_ = true;
    tell_fallback(why);
    return false;
  }
  decoder_.reset(avcodec_alloc_context3(codec));
  if (!decoder_) throw std::bad_alloc();
  AVCodecContext& c = *decoder_;
  int result = avcodec_parameters_to_context(&c, stream_->codecpar);
  c.pkt_timebase = stream_->time_base;
  c.max_pixels = kMaxPixels;
  c.thread_count = 1;  // the CPU's part is reading headers
  c.opaque = this;
  c.get_format = choose_format;
  c.extra_hw_frames = kExtraSurfaces;
#ifdef AV_HWACCEL_FLAG_UNSAFE_OUTPUT
  c.hwaccel_flags |= AV_HWACCEL_FLAG_UNSAFE_OUTPUT;  // no copy: the keeper makes one
#endif
  c.hw_device_ctx = av_buffer_ref(gpu_.get());
  if (c.hw_device_ctx == nullptr) throw std::bad_alloc();
  if (result >= 0) result = avcodec_open2(&c, codec, nullptr);
  if (result < 0) {
    gpu_refused_ = true;
    tell_fallback("NVDEC cannot be started: " + describe(result));
    return false;
  }
  return true;
}

void StreamReader::keep(FrameView& view) {
  Failure failure;
  copying_ = true;
  if (!options_.keeper.keep(options_.keeper.context, view, failure)) {
    throw Error(static_cast<ErrorCode>(failure.code), failure.message);
  }
}

/// Before the decoder gets its surface back.
void StreamReader::settle() {
  if (copying_) options_.keeper.settle(options_.keeper.context);
  copying_ = false;
}

/// Called by the decoder with each new format of the stream, and again without those that failed.
AVPixelFormat StreamReader::choose_format(AVCodecContext* decoder, const AVPixelFormat* offered) {
  auto* reader = static_cast<StreamReader*>(decoder->opaque);
  for (const AVPixelFormat* format = offered; *format != AV_PIX_FMT_NONE; ++format) {
    if (*format == AV_PIX_FMT_CUDA) {
      clear_last_error_line();
      return *format;
    }
  }
  if (!reader->gpu_refused_) {
    reader->gpu_refused_ = true;
    const std::string said = last_error_line();
    reader->tell_fallback("NVDEC of this GPU does not take it" +
                          (said.empty() ? said : " (" + said + ")"));
  }
  return avcodec_default_get_format(decoder, offered);
}

/// Starts again, with the CPU's threads, with the packets that the GPU's decoder was given.
void StreamReader::decode_on_cpu_instead() {
  decoder_.reset();
  open_decoder();
  while (!given_.empty()) {
    ahead_.push_front(std::move(given_.back()));
    given_.pop_back();
  }
  counter_ = counter_at_start_;
  broken_ = 0;
  failures_in_a_row_ = 0;
  input_ended_ = input_ended_ || ended_;
  ended_ = false;
}

}  // namespace rfseg::libav
