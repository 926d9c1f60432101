#include "media/libav/gpu_decoding.h"

#include <dlfcn.h>

#include "media/libav/support.h"

namespace rfseg::libav {
namespace {

bool is_exact(AVCodecID id) {
  switch (id) {
    case AV_CODEC_ID_H264:
    case AV_CODEC_ID_HEVC:
    case AV_CODEC_ID_VP8:
    case AV_CODEC_ID_VP9:
    case AV_CODEC_ID_AV1:
      return true;
    default:  // MPEG-2, MPEG-4 and VC-1 leave the rounding of the transform to the decoder
      return false;
  }
}

bool is_served(int format) {
  switch (format) {
    case AV_PIX_FMT_NONE:  // not known before the first frame
    case AV_PIX_FMT_YUV420P:
    case AV_PIX_FMT_YUVJ420P:
    case AV_PIX_FMT_YUV420P10LE:
      return true;
    default:
      return false;
  }
}

bool takes_cuda(const AVCodec& codec) {
  if (codec.wrapper_name != nullptr) return false;  // h264_cuvid and such have parsers of their own
  for (int i = 0;; ++i) {
    const AVCodecHWConfig* config = avcodec_get_hw_config(&codec, i);
    if (config == nullptr) return false;
    if (config->device_type == AV_HWDEVICE_TYPE_CUDA && config->pix_fmt == AV_PIX_FMT_CUDA &&
        (config->methods & AV_CODEC_HW_CONFIG_METHOD_HW_DEVICE_CTX) != 0) {
      return true;
    }
  }
}

/// FFmpeg would load the decoders' library anew for every stream, 0.1 s each time.
void* decoders_library() {
  static void* const library = dlopen("libnvcuvid.so.1", RTLD_NOW | RTLD_LOCAL);
  return library;
}

/// What the driver's cuvidGetDecoderCaps fills: CUVIDDECODECAPS of NVIDIA's cuviddec.h, whose names
/// are in the comments.
struct DecoderCaps {
  int codec;        // eCodecType
  int chroma;       // eChromaFormat
  unsigned deeper;  // nBitDepthMinus8
  unsigned reserved[3];
  unsigned char supported;  // bIsSupported
  unsigned char units;      // nNumNVDECs
  unsigned char rest[128];  // the formats and sizes taken: fewer bytes
};

}  // namespace

const AVCodec* find_gpu_decoder(const AVCodecParameters& stream, std::string& why) {
  const std::string name = avcodec_get_name(stream.codec_id);
  if (!is_exact(stream.codec_id)) {
    why = "NVDEC is not used for " + name;
    return nullptr;
  }
  if (!is_served(stream.format)) {
    const char* format = av_get_pix_fmt_name(static_cast<AVPixelFormat>(stream.format));
    why = std::string("NVDEC is not used for the pixel format ") + (format ? format : "unknown");
    return nullptr;
  }
  // These codecs do not round sizes up and crop, and NVDEC's surfaces have whole chroma samples.
  const bool crops = stream.codec_id == AV_CODEC_ID_H264 || stream.codec_id == AV_CODEC_ID_HEVC;
  if (!crops && (stream.width % 2 != 0 || stream.height % 2 != 0)) {
    why = "NVDEC is not used for " + name + " of odd size";
    return nullptr;
  }
  void* at = nullptr;
  while (const AVCodec* codec = av_codec_iterate(&at)) {
    if (codec->id == stream.codec_id && av_codec_is_decoder(codec) && takes_cuda(*codec)) {
      return codec;
    }
  }
  why = "the installed FFmpeg has no NVDEC for " + name;
  return nullptr;
}

AvPtr<AVBufferRef> open_gpu_device(void* stream, std::string& why) {
  // FFmpeg's own way to the primary context insists on scheduling flags that the CUDA runtime does
  // not set, so the context is handed over ready made.
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  using GetCurrent = int (*)(CUcontext*);
  const auto get_current =
      driver == nullptr ? nullptr : reinterpret_cast<GetCurrent>(dlsym(driver, "cuCtxGetCurrent"));
  CUcontext context = nullptr;
  if (get_current == nullptr || get_current(&context) != 0 || context == nullptr) {
    why = "no CUDA context (libcuda.so.1)";
    return nullptr;
  }
  if (decoders_library() == nullptr) {
    why = "the NVIDIA driver's libnvcuvid.so.1 is missing";
    return nullptr;
  }
  AvPtr<AVBufferRef> device(av_hwdevice_ctx_alloc(AV_HWDEVICE_TYPE_CUDA));
  if (!device) {
    why = "the installed FFmpeg was built without CUDA";
    return nullptr;
  }
  auto* cuda =
      static_cast<AVCUDADeviceContext*>(reinterpret_cast<AVHWDeviceContext*>(device->data)->hwctx);
  cuda->cuda_ctx = context;
  cuda->stream = static_cast<CUstream>(stream);
  clear_last_error_line();
  const int result = av_hwdevice_ctx_init(device.get());
  if (result < 0) {
    why = "FFmpeg cannot use CUDA: " + describe(result);
    return nullptr;
  }
  return device;
}

int gpu_decoder_units(const AVCodecParameters& stream) {
  using GetCaps = int (*)(DecoderCaps*);
  void* library = decoders_library();
  const auto get_caps = library == nullptr
                            ? nullptr
                            : reinterpret_cast<GetCaps>(dlsym(library, "cuvidGetDecoderCaps"));
  constexpr int kH264 = 4, kHevc = 8, k420 = 1;  // cudaVideoCodec, cudaVideoChromaFormat
  if (get_caps == nullptr) return 1;
  DecoderCaps caps{};
  caps.codec = stream.codec_id == AV_CODEC_ID_HEVC ? kHevc : kH264;
  caps.chroma = k420;
  caps.deeper = stream.format == AV_PIX_FMT_YUV420P10LE ? 2 : 0;
  if (get_caps(&caps) != 0 || caps.supported == 0) return 1;
  return caps.units > 0 ? caps.units : 1;
}

void keep(const Keeper& keeper, FrameView& view) {
  Failure failure;
  if (!keeper.keep(keeper.context, view, failure)) {
    throw Error(static_cast<ErrorCode>(failure.code), failure.message);
  }
}

}  // namespace rfseg::libav
