#pragma once

// Everything of FFmpeg that changes between its versions, in one place. Written for FFmpeg 5.1
// (libavcodec 59) of Debian 12; 6 and 7 differ as told below.

// hwcontext_cuda.h needs two names of <cuda.h>, which is not there where CUDA is not installed.
#define CUDA_VERSION 0
typedef struct CUctx_st* CUcontext;
typedef struct CUstream_st* CUstream;

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/hwcontext.h>
#include <libavutil/hwcontext_cuda.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include <memory>
#include <string>

namespace rfseg::libav {

struct AvDeleter {
  void operator()(AVPacket* p) const { av_packet_free(&p); }
  void operator()(AVFrame* f) const { av_frame_free(&f); }
  void operator()(AVCodecContext* c) const { avcodec_free_context(&c); }
  void operator()(AVFormatContext* c) const { avformat_close_input(&c); }
  void operator()(SwsContext* c) const { sws_freeContext(c); }
  void operator()(AVDictionary* d) const { av_dict_free(&d); }
  void operator()(AVBufferRef* b) const { av_buffer_unref(&b); }
};
template <class T>
using AvPtr = std::unique_ptr<T, AvDeleter>;

/// The 3x3 display matrix of a stream, or nullptr. Moved from the stream to its codec parameters
/// in libavformat 60.15 (FFmpeg 6.1).
const int32_t* display_matrix(const AVStream& stream);

/// Numbers that a decoder passes on from a packet to its frame. request_marks: before it is opened.
/// Before FFmpeg 6.0 they are the context's at the time, since then the packet's.
void request_marks(AVCodecContext& decoder);
void mark_packet(AVCodecContext& decoder, AVPacket& packet, int64_t mark);
int64_t mark_of(const AVFrame& frame);

/// True when the decoder says that the frame was damaged, wholly or in part.
bool is_damaged(const AVFrame& frame);

/// The demuxer for capture devices, or nullptr where libavdevice is not installed. The library is
/// loaded here, since it draws in a hundred others that files and streams do not need.
const AVInputFormat* capture_format();

/// Names and versions of the libraries that are loaded.
const char* library_versions();

}  // namespace rfseg::libav
