#include "media/libav/frame_converter.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "media/libav/support.h"
#include "rfseg/image.h"

namespace rfseg::libav {
namespace {

int half_up(int n) { return (n + 1) / 2; }

YuvMatrix matrix_of(const AVFrame& frame) {
  switch (frame.colorspace) {
    case AVCOL_SPC_BT709:
    case AVCOL_SPC_SMPTE240M:   // of 1990s analogue HDTV: nearest is 709
    case AVCOL_SPC_BT2020_NCL:  // no third matrix is offered; 709 is nearer than 601
    case AVCOL_SPC_BT2020_CL:
      return YuvMatrix::kBt709;
    case AVCOL_SPC_BT470BG:
    case AVCOL_SPC_SMPTE170M:
    case AVCOL_SPC_FCC:
      return YuvMatrix::kBt601;
    // Untagged: high definition is BT.709, as players guess.
    default:
      return frame.height >= 720 ? YuvMatrix::kBt709 : YuvMatrix::kBt601;
  }
}

bool is_full_range_format(int format) {
  switch (format) {
    case AV_PIX_FMT_YUVJ420P:
    case AV_PIX_FMT_YUVJ422P:
    case AV_PIX_FMT_YUVJ444P:
    case AV_PIX_FMT_YUVJ440P:
    case AV_PIX_FMT_YUVJ411P:
      return true;
    default:
      return false;
  }
}

YuvRange range_of(const AVFrame& frame) {
  const bool full = frame.color_range == AVCOL_RANGE_JPEG || is_full_range_format(frame.format);
  return full ? YuvRange::kFull : YuvRange::kLimited;
}

// libswscale warns about the "J" formats; their range is passed on its own.
AVPixelFormat without_range(int format) {
  switch (format) {
    case AV_PIX_FMT_YUVJ420P:
      return AV_PIX_FMT_YUV420P;
    case AV_PIX_FMT_YUVJ422P:
      return AV_PIX_FMT_YUV422P;
    case AV_PIX_FMT_YUVJ444P:
      return AV_PIX_FMT_YUV444P;
    case AV_PIX_FMT_YUVJ440P:
      return AV_PIX_FMT_YUV440P;
    case AV_PIX_FMT_YUVJ411P:
      return AV_PIX_FMT_YUV411P;
    default:
      return static_cast<AVPixelFormat>(format);
  }
}

FrameView view_for(const AVFrame& frame, PixelFormat format, int width, int height) {
  FrameView view;
  view.width = width;
  view.height = height;
  view.format = static_cast<int>(format);
  view.matrix = static_cast<int>(matrix_of(frame));
  view.range = static_cast<int>(range_of(frame));
  return view;
}

AVPixelFormat format_on_gpu(const AVFrame& frame) {
  return reinterpret_cast<const AVHWFramesContext*>(frame.hw_frames_ctx->data)->sw_format;
}

template <int kBytes>
struct Element {
  uint8_t bytes[kBytes];
};

// Writes a turned plane of `width` x `height` elements (before the turn) to tightly packed rows.
// The 32 x 32 tiles keep both the rows read and the rows written in the cache.
template <int kBytes>
void turn_plane(const uint8_t* in, std::ptrdiff_t stride, int width, int height, const Turn& turn,
                uint8_t* out_bytes) {
  constexpr int kTile = 32;
  using E = Element<kBytes>;
  const int out_width = turn.transpose ? height : width;
  const int out_height = turn.transpose ? width : height;
  auto* out = reinterpret_cast<E*>(out_bytes);
  for (int y0 = 0; y0 < out_height; y0 += kTile) {
    for (int x0 = 0; x0 < out_width; x0 += kTile) {
      for (int y = y0; y < std::min(y0 + kTile, out_height); ++y) {
        const int fy = turn.mirror_y ? out_height - 1 - y : y;
        E* row = out + static_cast<std::ptrdiff_t>(y) * out_width;
        for (int x = x0; x < std::min(x0 + kTile, out_width); ++x) {
          const int fx = turn.mirror_x ? out_width - 1 - x : x;
          const int source_y = turn.transpose ? fx : fy, source_x = turn.transpose ? fy : fx;
          row[x] = *reinterpret_cast<const E*>(in + source_y * stride + source_x * kBytes);
        }
      }
    }
  }
}

struct PlaneLayout {
  int width, height, bytes;  // in elements; a pair of interleaved chroma samples is one element
};

std::vector<PlaneLayout> layout_of(PixelFormat format, int width, int height) {
  const int cw = half_up(width), ch = half_up(height);
  switch (format) {
    case PixelFormat::kI420:
      return {{width, height, 1}, {cw, ch, 1}, {cw, ch, 1}};
    case PixelFormat::kNv12:
      return {{width, height, 1}, {cw, ch, 2}};
    case PixelFormat::kP010:
      return {{width, height, 2}, {cw, ch, 4}};
    default:
      return {{width, height, 3}};
  }
}

std::size_t plane_bytes(const PlaneLayout& plane) {
  return static_cast<std::size_t>(plane.width) * plane.height * plane.bytes;
}

}  // namespace

Turn turn_of(const int32_t* m) {
  if (m == nullptr) return {};
  // (x', y') = (m0 x + m3 y, m1 x + m4 y) in 16.16: ISO/IEC 14496-12, 6.2.2.
  const auto size = [&](int i) { return std::abs(static_cast<int64_t>(m[i])); };
  if (size(0) + size(4) >= size(1) + size(3)) {
    return {.transpose = false, .mirror_x = m[0] < 0, .mirror_y = m[4] < 0};
  }
  return {.transpose = true, .mirror_x = m[3] < 0, .mirror_y = m[1] < 0};
}

FrameConverter::FrameConverter(std::string name, int width, int height, Turn turn)
    : name_(std::move(name)), width_(width), height_(height), turn_(turn) {}

FrameView FrameConverter::convert(const AVFrame& frame) {
  if (frame.format != AV_PIX_FMT_CUDA) return convert_host(frame);
  if (stays_on_gpu(frame)) return view_on_gpu(frame);
  fetched_ = fetch(frame);
  return convert_host(*fetched_);
}

bool FrameConverter::stays_on_gpu(const AVFrame& frame) const {
  if (frame.format != AV_PIX_FMT_CUDA) return false;
  const AVPixelFormat format = format_on_gpu(frame);
  return frame.width - static_cast<int64_t>(frame.crop_left) == width_ &&
         frame.height - static_cast<int64_t>(frame.crop_top) == height_ && turn_.is_identity() &&
         (format == AV_PIX_FMT_NV12 || format == AV_PIX_FMT_P010LE);
}

FrameView FrameConverter::view_on_gpu(const AVFrame& frame) const {
  const bool wide = format_on_gpu(frame) == AV_PIX_FMT_P010LE;
  FrameView view = view_for(frame, wide ? PixelFormat::kP010 : PixelFormat::kNv12, width_, height_);
  view.on_gpu = true;
  // FFmpeg crops such frames at the right and the bottom only.
  const auto left = static_cast<std::ptrdiff_t>(frame.crop_left * (wide ? 2 : 1));
  const auto top = static_cast<std::ptrdiff_t>(frame.crop_top);
  for (int i = 0; i < 2; ++i) {
    view.strides[i] = frame.linesize[i];
    view.planes[i] = frame.data[i] + (i == 0 ? top : top / 2) * view.strides[i] + left;
  }
  return view;
}

AvPtr<AVFrame> FrameConverter::fetch(const AVFrame& frame) const {
  AvPtr<AVFrame> fetched(av_frame_alloc());
  if (!fetched) throw std::bad_alloc();
  int result = av_hwframe_transfer_data(fetched.get(), &frame, 0);
  if (result >= 0) result = av_frame_copy_props(fetched.get(), &frame);
  if (result >= 0) result = av_frame_apply_cropping(fetched.get(), AV_FRAME_CROP_UNALIGNED);
  if (result < 0) fail(ErrorCode::kInput, name_, "cannot fetch a frame from the GPU", result);
  return fetched;
}

FrameView FrameConverter::convert_host(const AVFrame& frame) {
  const bool resized = frame.width != width_ || frame.height != height_;
  if (resized && !size_warned_) {
    size_warned_ = true;
    log(kLogWarning, name_ + ": the pictures change their size from " + std::to_string(width_) +
                         "x" + std::to_string(height_) + " to " + std::to_string(frame.width) +
                         "x" + std::to_string(frame.height) + "; they are scaled to the first");
  }
  FrameView view;
  switch (resized ? AV_PIX_FMT_NONE : without_range(frame.format)) {
    case AV_PIX_FMT_YUV420P:
    case AV_PIX_FMT_NV12:
    case AV_PIX_FMT_P010LE:
      view = direct(frame);
      break;
    case AV_PIX_FMT_YUV420P10LE:
      view = to_p010(frame);
      break;
    default:
      view = through_swscale(frame);
  }
  return turn_.is_identity() ? view : turned(view);
}

FrameView FrameConverter::direct(const AVFrame& frame) const {
  const PixelFormat format = frame.format == AV_PIX_FMT_NV12     ? PixelFormat::kNv12
                             : frame.format == AV_PIX_FMT_P010LE ? PixelFormat::kP010
                                                                 : PixelFormat::kI420;
  FrameView view = view_for(frame, format, width_, height_);
  for (int i = 0; i < (format == PixelFormat::kI420 ? 3 : 2); ++i) {
    view.planes[i] = frame.data[i];
    view.strides[i] = frame.linesize[i];
  }
  return view;
}

FrameView FrameConverter::to_p010(const AVFrame& frame) {
  FrameView view = view_for(frame, PixelFormat::kP010, width_, height_);
  const int cw = half_up(width_), ch = half_up(height_);
  const std::size_t luma = static_cast<std::size_t>(width_) * height_;
  buffer_.resize((luma + static_cast<std::size_t>(cw) * ch * 2) * 2);
  auto* out = reinterpret_cast<uint16_t*>(buffer_.data());
  for (int y = 0; y < height_; ++y) {
    const auto* in = reinterpret_cast<const uint16_t*>(frame.data[0] + y * frame.linesize[0]);
    uint16_t* row = out + static_cast<std::ptrdiff_t>(y) * width_;
    for (int x = 0; x < width_; ++x) row[x] = static_cast<uint16_t>(in[x] << 6);
  }
  for (int y = 0; y < ch; ++y) {
    const auto* u = reinterpret_cast<const uint16_t*>(frame.data[1] + y * frame.linesize[1]);
    const auto* v = reinterpret_cast<const uint16_t*>(frame.data[2] + y * frame.linesize[2]);
    uint16_t* row = out + luma + static_cast<std::ptrdiff_t>(y) * cw * 2;
    for (int x = 0; x < cw; ++x) {
      row[2 * x] = static_cast<uint16_t>(u[x] << 6);
      row[2 * x + 1] = static_cast<uint16_t>(v[x] << 6);
    }
  }
  view.planes[0] = buffer_.data();
  view.planes[1] = buffer_.data() + luma * 2;
  view.strides[0] = static_cast<std::ptrdiff_t>(width_) * 2;
  view.strides[1] = static_cast<std::ptrdiff_t>(cw) * 4;
  return view;
}

FrameView FrameConverter::through_swscale(const AVFrame& frame) {
  const AVPixelFormat from = without_range(frame.format);
  const AVPixFmtDescriptor* descriptor = av_pix_fmt_desc_get(from);
  if (descriptor == nullptr || sws_isSupportedInput(from) == 0) {
    throw Error(ErrorCode::kInput, name_ + ": frames in a pixel format that cannot be converted (" +
                                       (descriptor ? descriptor->name : "unknown") + ")");
  }
  const bool subsampled = descriptor->nb_components >= 3 &&
                          (descriptor->flags & (AV_PIX_FMT_FLAG_RGB | AV_PIX_FMT_FLAG_PAL)) == 0 &&
                          (descriptor->log2_chroma_w > 0 || descriptor->log2_chroma_h > 0);
  const AVPixelFormat to = subsampled ? AV_PIX_FMT_YUV420P : AV_PIX_FMT_RGB24;
  FrameView view =
      view_for(frame, subsampled ? PixelFormat::kI420 : PixelFormat::kRgb8, width_, height_);
  if (!scaled_ || scaled_->format != to) {
    scaled_.reset(av_frame_alloc());
    if (!scaled_) throw std::bad_alloc();
    scaled_->format = to;
    scaled_->width = width_;
    scaled_->height = height_;
    if (av_frame_get_buffer(scaled_.get(), 0) < 0) throw std::bad_alloc();
  }
  scaler_.reset(
      sws_getCachedContext(scaler_.release(), frame.width, frame.height, from, width_, height_, to,
                           SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP,
                           nullptr, nullptr, nullptr));
  if (!scaler_) {
    throw Error(ErrorCode::kInput, name_ + ": cannot convert frames of format " + descriptor->name);
  }
  const bool full = view.range == static_cast<int>(YuvRange::kFull);
  const int* matrix = sws_getCoefficients(
      view.matrix == static_cast<int>(YuvMatrix::kBt709) ? SWS_CS_ITU709 : SWS_CS_ITU601);
  // Meaningless, and refused, for RGB to RGB.
  sws_setColorspaceDetails(scaler_.get(), matrix, full, matrix, subsampled ? full : 1, 0, 1 << 16,
                           1 << 16);
  sws_scale(scaler_.get(), frame.data, frame.linesize, 0, frame.height, scaled_->data,
            scaled_->linesize);
  for (int i = 0; i < (subsampled ? 3 : 1); ++i) {
    view.planes[i] = scaled_->data[i];
    view.strides[i] = scaled_->linesize[i];
  }
  return view;
}

FrameView FrameConverter::turned(const FrameView& view) {
  const std::vector<PlaneLayout> planes =
      layout_of(static_cast<PixelFormat>(view.format), view.width, view.height);
  std::size_t total = 0;
  for (const PlaneLayout& plane : planes) total += plane_bytes(plane);
  turned_.resize(total);
  FrameView result = view;
  if (turn_.transpose) std::swap(result.width, result.height);
  uint8_t* out = turned_.data();
  for (std::size_t i = 0; i < planes.size(); ++i) {
    const PlaneLayout& p = planes[i];
    const uint8_t* in = view.planes[i];
    const std::ptrdiff_t stride = view.strides[i];
    switch (p.bytes) {
      case 1:
        turn_plane<1>(in, stride, p.width, p.height, turn_, out);
        break;
      case 2:
        turn_plane<2>(in, stride, p.width, p.height, turn_, out);
        break;
      case 3:
        turn_plane<3>(in, stride, p.width, p.height, turn_, out);
        break;
      default:
        turn_plane<4>(in, stride, p.width, p.height, turn_, out);
    }
    result.planes[i] = out;
    result.strides[i] = static_cast<std::ptrdiff_t>(turn_.transpose ? p.height : p.width) * p.bytes;
    out += plane_bytes(p);
  }
  return result;
}

}  // namespace rfseg::libav
