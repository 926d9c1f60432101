#include "media/libav/writer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "media/libav/support.h"

namespace rfseg::libav {
namespace {

// Ticks a second: a multiple of the usual rates (24, 25, 30, 50, 60; 2002 ticks a frame at
// 30000/1001), within the 16 bits that MPEG-4 Part 2 has.
constexpr int kTimeBase = 60000;
constexpr int kKeyFrameSeconds = 4;  // what a player decodes at most to jump to a place

}  // namespace

FileWriter::FileWriter(const WriterOptions& options)
    : name_(options.name),
      width_(options.width),
      height_(options.height),
      frame_rate_(options.frame_rate > 0 && options.frame_rate < 1000 ? options.frame_rate : 25) {
  if (width_ <= 0 || height_ <= 0 || width_ > 16384 || height_ > 16384) {
    throw Error(ErrorCode::kOutput, name_ + ": a video of " + std::to_string(width_) + "x" +
                                        std::to_string(height_) +
                                        " pixels; each side may be 1 to 16384");
  }
  clear_last_error_line();
  frame_.reset(av_frame_alloc());
  packet_.reset(av_packet_alloc());
  if (!frame_ || !packet_) throw std::bad_alloc();
  open_encoder(options.threads);
  open_file(options.path, options.streamed);
}

void FileWriter::open_encoder(int threads) {
  const AVCodec* codec = avcodec_find_encoder_by_name("libx264");
  const bool x264 = codec != nullptr;
  if (!x264) codec = avcodec_find_encoder(AV_CODEC_ID_MPEG4);
  if (codec == nullptr) {
    throw Error(ErrorCode::kOutput, name_ +
                                        ": the installed FFmpeg can encode neither H.264 (libx264) "
                                        "nor MPEG-4; install Debian's libavcodec59");
  }
  encoder_.reset(avcodec_alloc_context3(codec));
  if (!encoder_) throw std::bad_alloc();
  AVCodecContext& c = *encoder_;
  c.width = (width_ + 1) & ~1;  // 4:2:0 has whole pairs
  c.height = (height_ + 1) & ~1;
  c.pix_fmt = AV_PIX_FMT_YUV420P;
  c.time_base = {1, kTimeBase};
  c.framerate = av_d2q(frame_rate_, kTimeBase);
  c.gop_size = std::max(1, static_cast<int>(std::lround(kKeyFrameSeconds * frame_rate_)));
  c.thread_count = threads;
  const bool hd = height_ >= 720;
  c.colorspace = hd ? AVCOL_SPC_BT709 : AVCOL_SPC_SMPTE170M;
  c.color_primaries = hd ? AVCOL_PRI_BT709 : AVCOL_PRI_SMPTE170M;
  c.color_trc = hd ? AVCOL_TRC_BT709 : AVCOL_TRC_SMPTE170M;
  c.color_range = AVCOL_RANGE_MPEG;
  c.flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
  if (x264) {
    // The network needs the processor more: 0.6 of the time of "veryfast" for 1.3 times the bytes.
    av_opt_set(c.priv_data, "preset", "superfast", 0);
    av_opt_set(c.priv_data, "crf", "22", 0);
  } else {
    c.flags |= AV_CODEC_FLAG_QSCALE;
    c.global_quality = 3 * FF_QP2LAMBDA;
  }
  const int result = avcodec_open2(encoder_.get(), codec, nullptr);
  if (result < 0) fail(ErrorCode::kOutput, name_, "cannot start the video encoder", result);

  frame_->format = c.pix_fmt;
  frame_->width = c.width;
  frame_->height = c.height;
  if (av_frame_get_buffer(frame_.get(), 0) < 0) throw std::bad_alloc();
  frame_->colorspace = c.colorspace;
  frame_->color_primaries = c.color_primaries;
  frame_->color_trc = c.color_trc;
  frame_->color_range = c.color_range;

  scaler_.reset(sws_getContext(c.width, c.height, AV_PIX_FMT_RGB24, c.width, c.height, c.pix_fmt,
                               SWS_BICUBIC, nullptr, nullptr, nullptr));
  if (!scaler_) throw std::bad_alloc();
  const int* matrix = sws_getCoefficients(hd ? SWS_CS_ITU709 : SWS_CS_ITU601);
  sws_setColorspaceDetails(scaler_.get(), matrix, 1, matrix, 0, 0, 1 << 16, 1 << 16);
}

void FileWriter::open_file(const std::string& path, bool streamed) {
  // The muxer is named: the file's own name is a temporary one.
  AVFormatContext* context = nullptr;
  int result = avformat_alloc_output_context2(&context, nullptr, "mp4", nullptr);
  format_.reset(context);
  if (result < 0) fail(ErrorCode::kOutput, name_, "cannot write an MP4", result);
  const std::string url = "file:" + path;
  format_->url = av_strdup(url.c_str());  // faststart reads the file again by this name
  stream_ = avformat_new_stream(format_.get(), nullptr);
  if (stream_ == nullptr || format_->url == nullptr) throw std::bad_alloc();
  stream_->time_base = encoder_->time_base;
  stream_->avg_frame_rate = encoder_->framerate;
  result = avcodec_parameters_from_context(stream_->codecpar, encoder_.get());
  if (result < 0) fail(ErrorCode::kOutput, name_, "cannot write an MP4", result);
  result = avio_open(&format_->pb, url.c_str(), AVIO_FLAG_WRITE);
  if (result < 0) fail(ErrorCode::kOutput, name_, "cannot open for writing", result);
  AVDictionary* raw = nullptr;
  // A pipe cannot be gone back in: the index is then spread over fragments.
  av_dict_set(&raw, "movflags",
              streamed ? "frag_keyframe+empty_moov+default_base_moof" : "faststart", 0);
  av_dict_set_int(&raw, "video_track_timescale", kTimeBase, 0);
  result = avformat_write_header(format_.get(), &raw);
  av_dict_free(&raw);
  if (result < 0 || format_->pb->error < 0) fail_write(result);
}

void FileWriter::fail_write(int error) {
  // The file's own error (a full disk) says more than what the muxer made of it.
  if (format_->pb != nullptr && format_->pb->error < 0) error = format_->pb->error;
  clear_last_error_line();
  fail(ErrorCode::kOutput, name_, "cannot write", error);
}

void FileWriter::write(const uint8_t* rgb, std::ptrdiff_t stride, double time_s) {
  const int width = encoder_->width, height = encoder_->height;
  if (width != width_ || height != height_) {
    const std::size_t row = static_cast<std::size_t>(width) * 3;
    padded_.resize(row * height);
    for (int y = 0; y < height; ++y) {
      const uint8_t* in = rgb + std::min(y, height_ - 1) * stride;
      uint8_t* out = padded_.data() + row * y;
      std::memcpy(out, in, static_cast<std::size_t>(width_) * 3);
      if (width != width_) std::memcpy(out + row - 3, in + (width_ - 1) * 3, 3);
    }
    rgb = padded_.data();
    stride = static_cast<std::ptrdiff_t>(row);
  }
  // The encoder may still read the buffers of earlier frames.
  if (av_frame_make_writable(frame_.get()) < 0) throw std::bad_alloc();
  const uint8_t* planes[4] = {rgb, nullptr, nullptr, nullptr};
  const int strides[4] = {static_cast<int>(stride), 0, 0, 0};
  sws_scale(scaler_.get(), planes, strides, 0, height, frame_->data, frame_->linesize);
  int64_t pts = std::isfinite(time_s) && std::abs(time_s) < 1e9
                    ? static_cast<int64_t>(std::llround(time_s * kTimeBase))
                    : last_pts_ + 1;
  if (last_pts_ != INT64_MIN) pts = std::max(pts, last_pts_ + 1);
  last_pts_ = pts;
  frame_->pts = pts;
  frame_->pict_type = AV_PICTURE_TYPE_NONE;
  encode(frame_.get());
}

void FileWriter::encode(const AVFrame* frame) {
  int result = avcodec_send_frame(encoder_.get(), frame);
  if (result < 0) fail(ErrorCode::kOutput, name_, "cannot encode a frame", result);
  for (;;) {
    result = avcodec_receive_packet(encoder_.get(), packet_.get());
    if (result == AVERROR(EAGAIN) || result == AVERROR_EOF) return;
    if (result < 0) fail(ErrorCode::kOutput, name_, "cannot encode a frame", result);
    // The muxer takes a frame's duration from the next one; the last has only this.
    if (packet_->duration <= 0) packet_->duration = std::llround(kTimeBase / frame_rate_);
    packet_->stream_index = stream_->index;
    av_packet_rescale_ts(packet_.get(), encoder_->time_base, stream_->time_base);
    result = av_interleaved_write_frame(format_.get(), packet_.get());
    if (result < 0 || format_->pb->error < 0) fail_write(result);
  }
}

void FileWriter::finish() {
  encode(nullptr);
  int result = av_write_trailer(format_.get());
  if (result >= 0) avio_flush(format_->pb);
  if (result < 0 || format_->pb->error < 0) fail_write(result);
  result = avio_closep(&format_->pb);
  if (result < 0) fail_write(result);
}

}  // namespace rfseg::libav
