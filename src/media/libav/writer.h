#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "media/libav/compat.h"
#include "media/libav/libav_api.h"

namespace rfseg::libav {

/// Encodes RGB frames to an MP4 file at the path that it is given.
class FileWriter {
 public:
  explicit FileWriter(const WriterOptions& options);

  void write(const uint8_t* rgb, std::ptrdiff_t stride, double time_s);
  void finish();

 private:
  struct OutputDeleter {
    void operator()(AVFormatContext* context) const {
      avio_closep(&context->pb);
      avformat_free_context(context);
    }
  };

  void open_encoder(int threads);
  void open_file(const std::string& path, bool streamed);
  void encode(const AVFrame* frame);
  [[noreturn]] void fail_write(int error);

  std::string name_;
  int width_, height_;  // of the frames given
  double frame_rate_;
  AvPtr<AVCodecContext> encoder_;
  std::unique_ptr<AVFormatContext, OutputDeleter> format_;
  AVStream* stream_ = nullptr;
  AvPtr<SwsContext> scaler_;
  AvPtr<AVFrame> frame_;
  AvPtr<AVPacket> packet_;
  std::vector<uint8_t> padded_;
  int64_t last_pts_ = INT64_MIN;
};

}  // namespace rfseg::libav
