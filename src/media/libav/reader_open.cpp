// StreamReader: finding the input, its video stream and a decoder on the CPU.

#include <sys/stat.h>

#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <vector>

#include "media/libav/reader.h"
#include "media/libav/support.h"

namespace rfseg::libav {
namespace {

// A key frame comes in one burst; the system takes what it allows of it.
constexpr int64_t kUdpBuffer = int64_t{4} << 20;

bool starts_with(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

bool ends_with(const std::string& text, const std::string& suffix) {
  return text.size() >= suffix.size() &&
         text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}

// Demuxers that make a "video" of a picture or of plain text.
bool is_picture_format(const std::string& name) {
  return starts_with(name, "image2") || ends_with(name, "_pipe");
}
// A camera's sequence of JPEGs: FFmpeg makes up 25 a second.
bool tells_times(const AVInputFormat& format) {
  return (format.flags & AVFMT_NOTIMESTAMPS) == 0 && std::strcmp(format.name, "mpjpeg") != 0;
}
bool is_text_format(const std::string& name) {
  return name == "tty" || name == "bin" || name == "xbin" || name == "adf" || name == "idf";
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

void StreamReader::open_input() {
  std::string url = name_;
  const AVInputFormat* input_format = nullptr;
  if (name_.find("://") != std::string::npos) {
    source_ = Source::kNetwork;
    for (std::size_t i = 0; url[i] != ':'; ++i) {  // RTSP://, which FFmpeg takes in small letters
      url[i] = static_cast<char>(std::tolower(static_cast<unsigned char>(url[i])));
    }
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
    av_dict_set_int(&raw, "rw_timeout", static_cast<int64_t>(options_.timeout_s * 1e6), 0);
    if (starts_with(url, "rtsp")) {
      // UDP where the server has no TCP, or where the URL asks for it, which FFmpeg sees to.
      av_dict_set(&raw, "rtsp_transport", "udp+tcp", 0);
      const bool udp = ends_with(name_, "?udp") || ends_with(name_, "&udp");
      if (!udp) av_dict_set(&raw, "rtsp_flags", "prefer_tcp", 0);
      av_dict_set_int(&raw, "buffer_size", kUdpBuffer, 0);
      av_dict_set_int(&raw, "timeout", static_cast<int64_t>(options_.timeout_s * 1e6), 0);
    }
  }
  arm();
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
  last_dts_ = until_ = latest_ = AV_NOPTS_VALUE;
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
  live_ = info().live;
  by_clock_ = live_ && !tells_times(*format_->iformat);
}

void StreamReader::open_decoder() {
  if (options_.keeper.stream != nullptr && !gpu_refused_ && open_gpu_decoder()) return;
  gpu_.reset();
  decoder_ = open_cpu_decoder(options_.threads);
}

AvPtr<AVCodecContext> StreamReader::open_cpu_decoder(int threads) {
  AvPtr<AVCodecContext> decoder(avcodec_alloc_context3(codec_));
  if (!decoder) throw std::bad_alloc();
  int result = avcodec_parameters_to_context(decoder.get(), stream_->codecpar);
  decoder->pkt_timebase = stream_->time_base;
  decoder->max_pixels = kMaxPixels;
  decoder->flags |= AV_CODEC_FLAG_UNALIGNED;  // crop to the pixel
  decoder->thread_count = threads;
  // Frame threads hold one frame a thread back, which a live picture should not wait for.
  if (source_ != Source::kFile) decoder->thread_type = FF_THREAD_SLICE;
  if (result >= 0) result = avcodec_open2(decoder.get(), codec_, nullptr);
  if (result == AVERROR(EAGAIN)) {  // of pthread_create: not the file's fault
    throw Error(ErrorCode::kDevice,
                name_ + ": the system starts no more threads for its decoder (ulimit -u)");
  }
  if (result < 0) fail_read(std::string("cannot decode ") + codec_->name + " video", result);
  return decoder;
}

StreamInfo StreamReader::info() const {
  StreamInfo info;
  info.width = width_;
  info.height = height_;
  info.frame_rate = frame_rate_;
  const int64_t start = stream_->start_time != AV_NOPTS_VALUE ? stream_->start_time : 0;
  if (const int64_t end = stated_end(); end != AV_NOPTS_VALUE && end > start) {
    info.duration_s = to_seconds(end - start);
  } else if (stream_->duration != AV_NOPTS_VALUE && stream_->duration > 0) {
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

}  // namespace rfseg::libav
