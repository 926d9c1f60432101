#pragma once

#include <gtest/gtest.h>

#include <string>

#include "media/libav/compat.h"
#include "media/video_test_support.h"

namespace rfseg::libav {

/// The packets of a file's video, and decoders for them on the CPU, by nothing but FFmpeg.
struct TestInput {
  AvPtr<AVFormatContext> format;
  AVStream* stream = nullptr;

  explicit TestInput(const std::string& path) {
    AVFormatContext* context = nullptr;
    if (avformat_open_input(&context, path.c_str(), nullptr, nullptr) < 0) return;
    format.reset(context);
    if (avformat_find_stream_info(context, nullptr) < 0) return;
    const int best = av_find_best_stream(context, AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0);
    if (best >= 0) stream = context->streams[best];
  }
  bool read(AVPacket& packet) const {
    for (;;) {
      av_packet_unref(&packet);
      if (av_read_frame(format.get(), &packet) < 0) return false;
      if (packet.stream_index == stream->index) return true;
    }
  }
  AvPtr<AVCodecContext> decoder() const {
    const AVCodec* codec = avcodec_find_decoder(stream->codecpar->codec_id);
    AvPtr<AVCodecContext> result(avcodec_alloc_context3(codec));
    EXPECT_GE(avcodec_parameters_to_context(result.get(), stream->codecpar), 0);
    result->thread_count = 1;
    request_marks(*result);
    EXPECT_GE(avcodec_open2(result.get(), codec, nullptr), 0);
    return result;
  }
};

}  // namespace rfseg::libav
