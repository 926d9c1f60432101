#include "media/libav/reader.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>

#include "media/libav/gpu_decoding.h"
#include "media/libav/support.h"
#include "rfseg/image.h"

namespace rfseg::libav {
namespace {

// 8192 x 8192: twice 8K. A decoder holds up to 20 such frames.
constexpr int64_t kMaxPixels = int64_t{1} << 26;
// Packets and errors that give no frame before a stream is given up.
constexpr int kMostFailuresInARow = 10000;
// A decoder asks where to decode with the first picture that it reads the head of.
constexpr std::size_t kMostGiven = 64;
constexpr std::size_t kMostBytesAhead = std::size_t{256} << 20;

bool starts_with(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

bool ends_with(const std::string& text, const std::string& suffix) {
  return text.size() >= suffix.size() &&
         text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}

// Demuxers that make a "video" of a picture or of plain text.
bool is_picture_format(const std::string& name) {
  return starts_with(name, "image2") || ends_with(name, "_pipe");
}
bool is_text_format(const std::string& name) {
  return name == "tty" || name == "bin" || name == "xbin" || name == "adf" || name == "idf";
}

int64_t now_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::string seconds_text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", seconds);
  return text;
}

void check_file(const std::string& name) {
  struct stat info {};
  if (stat(name.c_str(), &info) != 0) {
    throw Error(ErrorCode::kInput, name + ": cannot open: " + std::strerror(errno));
  }
  if (S_ISDIR(info.st_mode)) {
    throw Error(ErrorCode::kInput, name + ": is a directory, expected a video");
  }
  if (S_ISREG(info.st_mode) && info.st_size == 0) {
    throw Error(ErrorCode::kInput, name + ": the file is empty, expected a video");
  }
}

}  // namespace

void Watch::arm(double seconds) {
  deadline_us_ = seconds > 0 ? now_us() + static_cast<int64_t>(seconds * 1e6) : INT64_MAX;
}

bool Watch::expired() const {
  const int64_t deadline = deadline_us_;
  return deadline != INT64_MAX && now_us() > deadline;
}

int Watch::on_interrupt(void* watch) {
  const auto* w = static_cast<const Watch*>(watch);
  return w->cancelled() || w->expired() ? 1 : 0;
}

StreamReader::StreamReader(const char* path, const ReaderOptions& options)
    : name_(path), options_(options) {
  watch_ = std::make_unique<Watch>(options.cancelled, options.cancelled_context);
  packet_.reset(av_packet_alloc());
  frame_.reset(av_frame_alloc());
  if (!packet_ || !frame_) throw std::bad_alloc();
  open_input();
  open_stream();
  open_decoder();
  go_to_start();
}

void StreamReader::open_input() {
  std::string url = name_;
  const AVInputFormat* input_format = nullptr;
  if (name_.find("://") != std::string::npos) {
    source_ = Source::kNetwork;
  } else if (starts_with(name_, "/dev/video")) {
    source_ = Source::kDevice;
    check_file(name_);
    input_format = capture_format();
    if (input_format == nullptr) {
      throw Error(ErrorCode::kInput, name_ +
                                         ": capture devices need FFmpeg's libavdevice; install it "
                                         "(Debian: apt-get install libavdevice59)");
    }
  } else {
    check_file(name_);
    url = "file:" + name_;  // a name with a colon is no protocol
  }

  clear_last_error_line();
  AVFormatContext* context = avformat_alloc_context();
  if (context == nullptr) throw std::bad_alloc();
  context->interrupt_callback = {Watch::on_interrupt, watch_.get()};
  if (source_ == Source::kDevice) context->flags |= AVFMT_FLAG_NONBLOCK;
  AVDictionary* raw = nullptr;
  if (source_ == Source::kFile) {
    // A playlist in a file must not reach out to the network.
    av_dict_set(&raw, "protocol_whitelist", "file,crypto,data", 0);
  } else if (source_ == Source::kNetwork) {
    av_dict_set(&raw, "protocol_whitelist", "http,https,tcp,tls,rtp,udp,rtsp,crypto,data,httpproxy",
                0);
    av_dict_set(&raw, "rtsp_transport", "tcp", 0);
    av_dict_set_int(&raw, "rw_timeout", static_cast<int64_t>(options_.timeout_s * 1e6), 0);
    if (starts_with(name_, "rtsp")) {
      av_dict_set_int(&raw, "timeout", static_cast<int64_t>(options_.timeout_s * 1e6), 0);
    }
  }
  watch_->arm(source_ == Source::kFile ? 0 : options_.timeout_s);
  const int result = avformat_open_input(&context, url.c_str(), input_format, &raw);
  const AvPtr<AVDictionary> left(raw);
  if (result < 0) fail_read("cannot be read as a video", result);  // and `context` is freed
  format_.reset(context);

  const std::string format = format_->iformat->name;
  if (is_picture_format(format)) {
    throw Error(ErrorCode::kInput, name_ + ": is a picture (" + format +
                                       "), expected a video; a picture's name ends in .jpg, .png, "
                                       ".webp, .tif, .bmp or .ppm");
  }
  if (is_text_format(format)) throw Error(ErrorCode::kInput, name_ + ": is not a video");
}

void StreamReader::open_stream() {
  // The probe decodes too: its decoders get the same limits.
  std::vector<AVDictionary*> limits(format_->nb_streams, nullptr);
  for (AVDictionary*& limit : limits) {
    av_dict_set_int(&limit, "max_pixels", kMaxPixels, 0);
    av_dict_set_int(&limit, "threads", 1, 0);
  }
  const int probed =
      avformat_find_stream_info(format_.get(), limits.empty() ? nullptr : limits.data());
  for (AVDictionary*& limit : limits) av_dict_free(&limit);
  if (probed < 0) fail_read("cannot be read as a video", probed);

  const int best = av_find_best_stream(format_.get(), AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0);
  if (best < 0 || (format_->streams[best]->disposition & AV_DISPOSITION_ATTACHED_PIC) != 0) {
    throw Error(ErrorCode::kInput, name_ + ": has no video stream");
  }
  for (unsigned i = 0; i < format_->nb_streams; ++i) {
    if (static_cast<int>(i) != best) format_->streams[i]->discard = AVDISCARD_ALL;
  }
  stream_ = format_->streams[best];
  codec_ = avcodec_find_decoder(stream_->codecpar->codec_id);
  if (codec_ == nullptr) {
    throw Error(ErrorCode::kInput, name_ + ": no decoder for " +
                                       avcodec_get_name(stream_->codecpar->codec_id) +
                                       " video in the installed FFmpeg");
  }
  const int width = stream_->codecpar->width, height = stream_->codecpar->height;
  if (width <= 0 || height <= 0) {
    throw Error(ErrorCode::kInput, name_ + ": no picture could be found in the video stream (" +
                                       describe(AVERROR_INVALIDDATA) + ")");
  }
  if (static_cast<int64_t>(width) * height > kMaxPixels) {
    throw Error(ErrorCode::kInput, name_ + ": frames of " + std::to_string(width) + "x" +
                                       std::to_string(height) + " pixels; at most " +
                                       std::to_string(kMaxPixels) + " pixels are accepted");
  }
  AVRational rate = stream_->avg_frame_rate;
  if (rate.num <= 0 || rate.den <= 0) rate = stream_->r_frame_rate;
  if (rate.num > 0 && rate.den > 0) frame_rate_ = av_q2d(rate);
  zero_time_ = source_ == Source::kFile ? stream_->start_time : AV_NOPTS_VALUE;
  const Turn turn = turn_of(display_matrix(*stream_));
  width_ = options_.width > 0 ? options_.width : turn.transpose ? height : width;
  height_ = options_.height > 0 ? options_.height : turn.transpose ? width : height;
  converter_ = std::make_unique<FrameConverter>(name_, turn.transpose ? height_ : width_,
                                                turn.transpose ? width_ : height_, turn);
}

void StreamReader::open_decoder() {
  if (options_.cuda_stream != nullptr && !gpu_refused_ && open_gpu_decoder()) return;
  gpu_.reset();
  decoder_.reset(avcodec_alloc_context3(codec_));
  if (!decoder_) throw std::bad_alloc();
  int result = avcodec_parameters_to_context(decoder_.get(), stream_->codecpar);
  decoder_->pkt_timebase = stream_->time_base;
  decoder_->max_pixels = kMaxPixels;
  decoder_->flags |= AV_CODEC_FLAG_UNALIGNED;  // crop to the pixel
  decoder_->thread_count = options_.threads;
  // Frame threads hold one frame a thread back, which a live picture should not wait for.
  if (source_ != Source::kFile) decoder_->thread_type = FF_THREAD_SLICE;
  if (result >= 0) result = avcodec_open2(decoder_.get(), codec_, nullptr);
  if (result < 0) fail_read(std::string("cannot decode ") + codec_->name + " video", result);
}

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

StreamInfo StreamReader::info() const {
  StreamInfo info;
  info.width = width_;
  info.height = height_;
  info.frame_rate = frame_rate_;
  if (stream_->duration != AV_NOPTS_VALUE && stream_->duration > 0) {
    info.duration_s = static_cast<double>(stream_->duration) * av_q2d(stream_->time_base);
  } else if (format_->duration != AV_NOPTS_VALUE && format_->duration > 0) {
    info.duration_s = static_cast<double>(format_->duration) / AV_TIME_BASE;
  }
  info.frames = stream_->nb_frames > 0
                    ? stream_->nb_frames
                    : static_cast<int64_t>(std::llround(info.duration_s * frame_rate_));
  // A reply with a length is a file, even where its duration cannot be told without going back.
  const bool sized = format_->pb != nullptr && avio_size(format_->pb) > 0;
  info.live =
      source_ == Source::kDevice || (source_ == Source::kNetwork && info.duration_s <= 0 && !sized);
  info.on_gpu = gpu_ != nullptr;
  std::snprintf(info.codec, sizeof info.codec, "%s", avcodec_get_name(codec_->id));
  return info;
}

double StreamReader::to_seconds(int64_t timestamp) const {
  // One rounding, so that frame 12 at 25 frames a second has the time that 0.48 reads as.
  return static_cast<double>(timestamp) * stream_->time_base.num / stream_->time_base.den;
}

void StreamReader::fail_read(const std::string& what, int error) {
  if (watch_->cancelled()) throw Error(ErrorCode::kCancelled, name_ + ": cancelled");
  if (watch_->expired()) {
    throw Error(ErrorCode::kInput,
                name_ + ": nothing came within " + seconds_text(options_.timeout_s) + " seconds");
  }
  fail(ErrorCode::kInput, name_, what, error);
}

/// Reads the next packet of the stream; false at its end.
bool StreamReader::read_packet(AVPacket& packet) {
  for (;;) {
    av_packet_unref(&packet);
    watch_->arm(source_ == Source::kFile ? 0 : options_.timeout_s);
    int result = av_read_frame(format_.get(), &packet);
    while (result == AVERROR(EAGAIN)) {  // a device without a picture yet
      if (Watch::on_interrupt(watch_.get()) != 0) fail_read("cannot be read", AVERROR_EXIT);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      result = av_read_frame(format_.get(), &packet);
    }
    if (result >= 0) {
      if (packet.stream_index == stream_->index) return true;
      continue;
    }
    if (result == AVERROR_EOF) return false;
    if (result == AVERROR_INVALIDDATA && ++failures_in_a_row_ < kMostFailuresInARow) {
      cut_short_ = true;
      continue;
    }
    if (result == AVERROR_INVALIDDATA) return false;
    // A reply without a length ends with its connection; FFmpeg misses the rest of 2^64 bytes.
    const bool sized = format_->pb != nullptr && avio_size(format_->pb) > 0;
    if (source_ == Source::kNetwork && result == AVERROR(EIO) && !sized && !watch_->expired() &&
        !watch_->cancelled()) {
      return false;
    }
    try {
      fail_read("cannot be read any further", result);
    } catch (const Error& error) {
      if (source_ == Source::kFile || error.code() == ErrorCode::kCancelled) throw;
      broken_off_ = std::current_exception();  // once the decoder has given what it holds
      return false;
    }
  }
}

/// True for packets that hold one frame of the presentation.
bool StreamReader::holds_frame(const AVPacket& packet) const {
  if ((packet.flags & AV_PKT_FLAG_DISCARD) != 0) return false;  // outside the edit list
  // VP8 has packets of their own for frames that are only referred to (RFC 6386, 9.1: show_frame).
  return codec_->id != AV_CODEC_ID_VP8 || packet.size < 1 || (packet.data[0] & 0x10) != 0;
}

void StreamReader::count_broken() {
  ++broken_;
  counter_.broken();
}

// --start: decoding must begin at a key frame before the first wanted frame, and the frames before
// that key frame must be counted although they are not decoded. MP4 has an index of all samples;
// other containers are read, not decoded, up to the time.
void StreamReader::go_to_start() {
  if (options_.start_s <= 0 || source_ == Source::kDevice) return;
  if (format_->iformat->flags & AVFMT_NOTIMESTAMPS || stream_->time_base.num <= 0) return;
  if (source_ == Source::kNetwork && format_->duration <= 0) return;
  if (zero_time_ == AV_NOPTS_VALUE && stream_->start_time != AV_NOPTS_VALUE) {
    zero_time_ = stream_->start_time;
  }
  const double ticks = options_.start_s / av_q2d(stream_->time_base);
  if (!(ticks < 9e18)) return;
  const int64_t zero = zero_time_ == AV_NOPTS_VALUE ? 0 : zero_time_;
  const int64_t target = zero + static_cast<int64_t>(ticks);
  if (seek_by_index(target)) return;
  scan_to(target);
}

bool StreamReader::seek_by_index(int64_t target) {
  const int entries = avformat_index_get_entries_count(stream_);
  if (!starts_with(format_->iformat->name, "mov") || entries <= 0 ||
      entries != stream_->nb_frames) {
    return false;
  }
  std::vector<std::pair<int, int64_t>> keys;  // index entry, frames before it
  int64_t shown = 0;
  for (int i = 0; i < entries; ++i) {
    const AVIndexEntry* entry = avformat_index_get_entry(stream_, i);
    if (entry->timestamp > target) break;
    if ((entry->flags & AVINDEX_KEYFRAME) != 0) keys.emplace_back(i, shown);
    if ((entry->flags & AVINDEX_DISCARD_FRAME) == 0) ++shown;
  }
  if (keys.size() <= 1) return true;  // the beginning, where the reader is
  // The index has decoding times. A key frame that is decoded before the target may be shown after
  // it: then the one before is taken.
  for (; keys.size() > 1; keys.pop_back()) {
    const AVIndexEntry* entry = avformat_index_get_entry(stream_, keys.back().first);
    const int64_t timestamp = entry->timestamp;
    if (av_seek_frame(format_.get(), stream_->index, timestamp, AVSEEK_FLAG_BACKWARD) < 0) break;
    AvPtr<AVPacket> packet(av_packet_alloc());
    if (!packet) throw std::bad_alloc();
    if (!read_packet(*packet)) break;
    if (packet->dts != timestamp || (packet->flags & AV_PKT_FLAG_KEY) == 0) break;
    if (packet->pts > target) continue;
    counter_.restart(keys.back().second);
    ahead_.push_back(std::move(packet));
    return true;
  }
  // Begin at the beginning: opened again, since a failed seek leaves the demuxer anywhere.
  decoder_.reset();
  format_.reset();
  open_input();
  open_stream();
  open_decoder();
  return keys.size() == 1;
}

void StreamReader::scan_to(int64_t target) {
  int64_t before = 0;  // frames before the first packet kept
  std::size_t bytes = 0;
  for (;;) {
    AvPtr<AVPacket> packet(av_packet_alloc());
    if (!packet) throw std::bad_alloc();
    if (!read_packet(*packet)) {
      input_ended_ = true;
      break;
    }
    const bool has_time = packet->pts != AV_NOPTS_VALUE;
    if (has_time && packet->pts <= target && (packet->flags & AV_PKT_FLAG_KEY) != 0) {
      for (const auto& dropped : ahead_) before += holds_frame(*dropped);
      ahead_.clear();
      bytes = 0;
    }
    const int64_t decoded_at = packet->dts != AV_NOPTS_VALUE ? packet->dts : packet->pts;
    bytes += static_cast<std::size_t>(packet->size);
    ahead_.push_back(std::move(packet));
    if (decoded_at == AV_NOPTS_VALUE || decoded_at >= target || bytes > kMostBytesAhead) break;
  }
  counter_.restart(before);
}

/// The next packet for a decoder; false when there is none.
bool StreamReader::next_packet(AVPacket& packet) {
  if (ahead_.empty()) return !input_ended_ && read_packet(packet);
  av_packet_unref(&packet);
  av_packet_move_ref(&packet, ahead_.front().get());
  ahead_.pop_front();
  return true;
}

/// Gives the decoder one packet, or tells it that there are no more. False when it was told before.
bool StreamReader::feed_decoder() {
  if (ended_) return false;
  if (!next_packet(*packet_)) {
    ended_ = true;
    return avcodec_send_packet(decoder_.get(), nullptr) >= 0;
  }
  if ((packet_->flags & AV_PKT_FLAG_CORRUPT) != 0) cut_short_ = true;
  if (gpu_ && decoded_ == 0 && !gpu_refused_ && given_.size() < kMostGiven) {
    if (given_.empty()) counter_at_start_ = counter_;
    given_.emplace_back(av_packet_clone(packet_.get()));
    if (!given_.back()) throw std::bad_alloc();
  }
  if (holds_frame(*packet_)) counter_.packet(packet_->pts);
  settle();
  const int result = avcodec_send_packet(decoder_.get(), packet_.get());
  av_packet_unref(packet_.get());
  if (result == AVERROR(ENOMEM)) throw std::bad_alloc();
  if (result < 0) {
    count_broken();
    ++failures_in_a_row_;
  }
  return true;
}

/// Brings the next decoded frame into frame_; false at the end.
bool StreamReader::decode() {
  for (;;) {
    if (failures_in_a_row_ >= kMostFailuresInARow) {
      throw Error(ErrorCode::kInput, name_ + ": given up after " +
                                         std::to_string(failures_in_a_row_) +
                                         " broken frames in a row");
    }
    settle();
    const int result = avcodec_receive_frame(decoder_.get(), frame_.get());
    if (gpu_ && gpu_refused_ && decoded_ == 0 && given_.size() < kMostGiven) {
      av_frame_unref(frame_.get());
      decode_on_cpu_instead();
      continue;
    }
    if (result >= 0) {
      if (!is_damaged(*frame_)) {
        failures_in_a_row_ = 0;
        return true;
      }
      ++broken_;
      ++failures_in_a_row_;
      counter_.frame(frame_->pts);
    } else if (result == AVERROR(EAGAIN)) {
      if (!feed_decoder()) return false;
    } else if (result == AVERROR_EOF) {
      return false;
    } else if (result == AVERROR(ENOMEM)) {
      throw std::bad_alloc();
    } else {
      count_broken();
      ++failures_in_a_row_;
    }
  }
}

double StreamReader::frame_time(const AVFrame& frame) {
  const int64_t timestamp = frame.best_effort_timestamp;
  if (timestamp == AV_NOPTS_VALUE) {
    return last_time_ < 0 ? 0 : last_time_ + (frame_rate_ > 0 ? 1 / frame_rate_ : 0);
  }
  if (zero_time_ == AV_NOPTS_VALUE) zero_time_ = timestamp;
  return to_seconds(timestamp - zero_time_);
}

bool StreamReader::read(FrameView& view) {
  while (decode()) {
    if (watch_->cancelled()) throw Error(ErrorCode::kCancelled, name_ + ": cancelled");
    ++decoded_;
    given_.clear();
    const int64_t index = counter_.frame(frame_->pts);
    const double time = frame_time(*frame_);
    last_time_ = time;
    if (options_.end_s >= 0 && time >= options_.end_s) return false;
    if (time < options_.start_s || index % options_.every != 0) continue;
    view = converter_->convert(*frame_);
    if (view.on_gpu) keep(view);
    view.index = index;
    view.time_s = time;
    return true;
  }
  if (broken_off_) std::rethrow_exception(broken_off_);
  if (decoded_ == 0 && options_.start_s <= 0) {
    throw Error(ErrorCode::kInput,
                name_ + ": no frame could be decoded" +
                    (broken_ > 0 ? " (" + std::to_string(broken_) + " are broken)" : ""));
  }
  if (cut_short_) {
    cut_short_ = false;
    log(kLogWarning, name_ + ": the file is damaged or ends too early");
  }
  return false;
}

}  // namespace rfseg::libav
