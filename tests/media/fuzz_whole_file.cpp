// Fuzz target: a file's own account of its size, in each of the forms that are read.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "media/libav/whole_file.h"

namespace {

struct Memory {
  const uint8_t* data;
  int64_t size, at;
};

int read(void* opaque, uint8_t* out, int count) {
  auto& memory = *static_cast<Memory*>(opaque);
  const int64_t length = std::min<int64_t>(count, memory.size - memory.at);
  if (length <= 0) return AVERROR_EOF;
  std::memcpy(out, memory.data + memory.at, static_cast<std::size_t>(length));
  memory.at += length;
  return static_cast<int>(length);
}

int64_t seek(void* opaque, int64_t at, int whence) {
  auto& memory = *static_cast<Memory*>(opaque);
  if (whence == AVSEEK_SIZE) return memory.size;
  if (whence != SEEK_SET || at < 0 || at > memory.size) return AVERROR(EINVAL);
  return memory.at = at;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr int kBuffer = 4096;
  const AVStream stream{};
  for (const char* name : {"matroska", "avi", "flv", "asf"}) {
    Memory memory{data, static_cast<int64_t>(size), 0};
    AVIOContext* io = avio_alloc_context(static_cast<unsigned char*>(av_malloc(kBuffer)), kBuffer,
                                         0, &memory, read, nullptr, seek);
    AVFormatContext* input = avformat_alloc_context();
    if (io == nullptr || input == nullptr) std::abort();
    input->pb = io;
    input->iformat = av_find_input_format(name);
    if (input->iformat == nullptr) std::abort();
    rfseg::libav::wholeness_of(*input, stream);
    rfseg::libav::length_of_cut_asf(*input);
    avformat_free_context(input);
    av_freep(&io->buffer);
    avio_context_free(&io);
  }
  return 0;
}
