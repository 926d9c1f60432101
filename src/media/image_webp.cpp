// WebP through libwebp; of an animation the first frame, placed on its canvas as Pillow does.

#include <webp/decode.h>
#include <webp/demux.h>

#include <algorithm>
#include <memory>

#include "media/image_decoders.h"
#include "media/image_exif.h"

namespace rfseg {
namespace {

int orientation_of(const ImageSource& source) {
  const WebPData data{source.data, source.size};
  const std::unique_ptr<WebPDemuxer, decltype(&WebPDemuxDelete)> demuxer(WebPDemux(&data),
                                                                         &WebPDemuxDelete);
  if (demuxer == nullptr) return 1;
  WebPChunkIterator chunk{};
  int orientation = 1;
  if (WebPDemuxGetChunk(demuxer.get(), "EXIF", 1, &chunk) != 0) {
    orientation = exif_orientation(chunk.chunk.bytes, chunk.chunk.size);
  }
  WebPDemuxReleaseChunkIterator(&chunk);
  return orientation;
}

void decode_first_frame(const ImageSource& source, Image& image) {
  const WebPData data{source.data, source.size};
  WebPAnimDecoderOptions options;
  if (WebPAnimDecoderOptionsInit(&options) == 0) fail_image(source, "libwebp could not be started");
  options.color_mode = MODE_RGBA;
  options.use_threads = 0;
  const std::unique_ptr<WebPAnimDecoder, decltype(&WebPAnimDecoderDelete)> decoder(
      WebPAnimDecoderNew(&data, &options), &WebPAnimDecoderDelete);
  uint8_t* rgba = nullptr;
  int time = 0;
  if (decoder == nullptr || WebPAnimDecoderGetNext(decoder.get(), &rgba, &time) == 0) {
    fail_image(source, "broken or truncated WebP animation");
  }
  for (std::size_t i = 0; i < image.pixels.size(); i += 3, rgba += 4) {
    std::copy_n(rgba, 3, image.pixels.data() + i);
  }
}

}  // namespace

DecodedImage decode_webp(const ImageSource& source) {
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(source.data, source.size, &features) != VP8_STATUS_OK) {
    fail_image(source, "broken or truncated WebP");
  }
  check_image_size(source, static_cast<uint64_t>(features.width),
                   static_cast<uint64_t>(features.height));
  DecodedImage decoded;
  decoded.orientation = orientation_of(source);
  decoded.image = Image(features.width, features.height);
  if (features.has_animation != 0) {
    decode_first_frame(source, decoded.image);
  } else if (WebPDecodeRGBInto(source.data, source.size, decoded.image.pixels.data(),
                               decoded.image.pixels.size(), features.width * 3) == nullptr) {
    fail_image(source, "broken or truncated WebP");
  }
  return decoded;
}

}  // namespace rfseg
