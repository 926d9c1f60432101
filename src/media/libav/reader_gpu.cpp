// StreamReader: decoding on a GPU, with several decoders where the file lets them share the work,
// and on the CPU where the GPU does not take the stream.

#include <algorithm>
#include <exception>
#include <new>
#include <utility>

#include "media/libav/gpu_decoding.h"
#include "media/libav/group_starts.h"
#include "media/libav/reader.h"
#include "media/libav/support.h"

namespace rfseg::libav {
namespace {

constexpr int64_t kMostFramesAhead = 1024;
// Packets in which a second group has to begin for a file to be taken for one of groups.
constexpr std::size_t kMostProbed = 600;
constexpr std::size_t kMostBytesProbed = std::size_t{64} << 20;

/// A decoder of the GPU that shares a file with others.
class GpuLane final : public LaneDecoder {
 public:
  GpuLane(AvPtr<AVCodecContext> decoder, const Keeper& keeper, const FrameConverter& converter)
      : keeper_(keeper), converter_(converter) {
    context = std::move(decoder);
  }
  void take(AVFrame& frame, LaneEvent& event) override {
    if (converter_.stays_on_gpu(frame)) {
      event.view = converter_.view_on_gpu(frame);
      keep(keeper_, event.view);
      copying_ = true;
    } else if (frame.format == AV_PIX_FMT_CUDA) {
      event.host = converter_.fetch(frame);
    } else {
      event.host.reset(av_frame_alloc());
      if (!event.host) throw std::bad_alloc();
      av_frame_move_ref(event.host.get(), &frame);
    }
  }
  void settle() override {
    if (copying_) keeper_.settle(keeper_.context);
    copying_ = false;
  }

 private:
  Keeper keeper_;
  const FrameConverter& converter_;
  bool copying_ = false;
};

}  // namespace

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
  if (codec != nullptr) gpu_ = open_gpu_device(options_.keeper.stream, why);
  if (!gpu_) {
    gpu_refused_ = true;
    tell_fallback(why);
    return false;
  }
  int result = 0;
  decoder_ = make_gpu_decoder(codec, gpu_.get(), result);
  if (result < 0) {
    gpu_refused_ = true;
    tell_fallback("NVDEC cannot be started: " + describe(result));
    return false;
  }
  if (may_share()) group_starts_ = std::make_unique<GroupStarts>(*stream_->codecpar);
  return true;
}

AvPtr<AVCodecContext> StreamReader::make_gpu_decoder(const AVCodec* codec, AVBufferRef* device,
                                                     int& result) {
  AvPtr<AVCodecContext> decoder(avcodec_alloc_context3(codec));
  if (!decoder) throw std::bad_alloc();
  AVCodecContext& c = *decoder;
  result = avcodec_parameters_to_context(&c, stream_->codecpar);
  c.pkt_timebase = stream_->time_base;
  c.max_pixels = kMaxPixels;
  c.thread_count = 1;  // the CPU's part is reading headers
  c.opaque = this;
  c.get_format = choose_format;
  c.extra_hw_frames = kExtraSurfaces;
  request_marks(c);
#ifdef AV_HWACCEL_FLAG_UNSAFE_OUTPUT
  c.hwaccel_flags |= AV_HWACCEL_FLAG_UNSAFE_OUTPUT;  // no copy: the keeper makes one
#endif
  c.hw_device_ctx = av_buffer_ref(device);
  if (c.hw_device_ctx == nullptr) throw std::bad_alloc();
  if (result >= 0) result = avcodec_open2(&c, codec, nullptr);
  return decoder;
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

/// A file of a kind that consists of groups of pictures, long enough for other decoders to pay.
bool StreamReader::may_share() const {
  if (options_.gpu_decoders < 2 || source_ != Source::kFile ||
      !GroupStarts::knows(stream_->codecpar->codec_id)) {
    return false;
  }
  const int64_t frames = info().frames;  // 0 where unknown
  return frames == 0 || frames >= options_.fewest_to_share;
}

/// Before the decoder is opened. One of the GPU's units decodes HEVC faster than 16 processors, and
/// H.264 as fast as eight.
bool StreamReader::is_faster_on_gpu() {
  if (options_.keeper.stream == nullptr) return false;
  if (codec_->id == AV_CODEC_ID_HEVC) return true;
  return may_share() && gpu_decoder_units(*stream_->codecpar) > 1 && has_short_groups();
}

bool StreamReader::has_short_groups() {
  GroupStarts starts(*stream_->codecpar);
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < kMostProbed && bytes < kMostBytesProbed; ++i) {
    if (i == ahead_.size()) {
      AvPtr<AVPacket> packet(av_packet_alloc());
      if (!packet) throw std::bad_alloc();
      input_ended_ = input_ended_ || !read_ahead(*packet);
      if (input_ended_) return false;
      ahead_.push_back(std::move(packet));
    }
    bytes += static_cast<std::size_t>(ahead_[i]->size);
    if (starts(*ahead_[i]) && i > 0) return true;
  }
  return false;
}

/// One more decoder, on a stream of its own. Throws where the GPU has no memory for it, or whatever
/// else it lacks.
std::unique_ptr<LaneDecoder> StreamReader::open_lane(const AVCodec& codec) {
  Failure failure;
  Keeper keeper;
  if (!options_.keeper.another(options_.keeper.context, keeper, failure)) {
    throw Error(static_cast<ErrorCode>(failure.code), failure.message);
  }
  std::string why;
  const AvPtr<AVBufferRef> device = open_gpu_device(keeper.stream, why);
  if (!device) throw Error(ErrorCode::kDevice, why);
  int result = 0;
  AvPtr<AVCodecContext> decoder = make_gpu_decoder(&codec, device.get(), result);
  if (result < 0) throw Error(ErrorCode::kDevice, "NVDEC cannot be started: " + describe(result));
  return std::make_unique<GpuLane>(std::move(decoder), keeper, *converter_);
}

/// After the first frame: the rest of the file goes to several decoders. False where the GPU has
/// one.
bool StreamReader::share_among_decoders() {
  DecoderLanes::Limits limits;
  limits.decoders = static_cast<std::size_t>(
      std::clamp(gpu_decoder_units(*stream_->codecpar), 1, options_.gpu_decoders));
  if (limits.decoders < 2) return false;
  const bool wide = stream_->codecpar->format == AV_PIX_FMT_YUV420P10LE;
  const int64_t frame_bytes = int64_t{width_} * height_ * 3 / (wide ? 1 : 2);
  const int64_t most = options_.most_bytes_ahead / std::max(frame_bytes, int64_t{1});
  limits.frames_ahead = static_cast<std::size_t>(std::clamp(most, int64_t{1}, kMostFramesAhead));
  settle();
  av_frame_unref(frame_.get());
  const AVCodec* codec = decoder_->codec;
  DecoderLanes::Hooks hooks;
  hooks.read = [this](AVPacket& packet) {
    if (!next_packet(packet)) return false;
    if ((packet.flags & AV_PKT_FLAG_CORRUPT) != 0) cut_short_ = true;
    return true;
  };
  hooks.begins_group = [this](const AVPacket& packet) { return (*group_starts_)(packet); };
  hooks.open = [this, codec]() -> std::unique_ptr<LaneDecoder> {
    try {
      return open_lane(*codec);
    } catch (const std::exception& error) {
      log(kLogDebug, name_ + ": shared by fewer decoders: " + error.what());
      return nullptr;
    }
  };
  hooks.drop = [drop = options_.keeper.drop](const FrameView& view) { drop(view.kept); };
  lanes_ = std::make_unique<DecoderLanes>(
      std::make_unique<GpuLane>(std::move(decoder_), options_.keeper, *converter_), limits,
      std::move(hooks));
  return true;
}

/// A packet before its turn: what ends the input waits for the frames before it.
bool StreamReader::read_ahead(AVPacket& packet) {
  try {
    return read_packet(packet);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCancelled) throw;
    broken_off_ = std::current_exception();
    return false;
  }
}

bool StreamReader::next_of_lanes(LaneEvent& shown) {
  while (lanes_->next(shown)) {
    switch (shown.kind) {
      case LaneEvent::Kind::kPacket:
        counter_.packet(shown.pts, FrameCounter::kNoTime, shown.key);
        break;
      case LaneEvent::Kind::kBroken:
        count_broken();
        ++failures_in_a_row_;
        break;
      case LaneEvent::Kind::kDamaged:
        ++broken_;
        ++failures_in_a_row_;
        counter_.frame(shown.pts);
        break;
      case LaneEvent::Kind::kFrame:
        failures_in_a_row_ = 0;
        return true;
    }
    check_failures();
  }
  return false;
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
