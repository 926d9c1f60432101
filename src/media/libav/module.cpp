// The module rfseg_libav.so: the functions behind libav_api.h, with C++ exceptions turned into
// Failure at the border.

#include <cstdio>
#include <exception>
#include <new>

#include "media/libav/compat.h"
#include "media/libav/libav_api.h"
#include "media/libav/reader.h"
#include "media/libav/support.h"
#include "media/libav/writer.h"

namespace rfseg::libav {

struct Reader {
  Reader(const char* path, const ReaderOptions& options) : stream(path, options) {}
  StreamReader stream;
};

struct Writer {
  explicit Writer(const WriterOptions& options) : file(options) {}
  FileWriter file;
};

namespace {

void set_failure(Failure& failure, ErrorCode code, const char* message) {
  failure.code = static_cast<int>(code);
  std::snprintf(failure.message, sizeof failure.message, "%s", message);
}

/// Runs `body`, and gives `failed` with `failure` set when it throws.
template <class Result, class Body>
Result guard(Failure& failure, const char* name, Result failed, Body body) noexcept {
  try {
    return body();
  } catch (const Error& error) {
    set_failure(failure, error.code(), error.what());
  } catch (const std::bad_alloc&) {
    char message[512];
    std::snprintf(message, sizeof message, "%s: not enough memory", name);
    set_failure(failure, ErrorCode::kInput, message);
  } catch (const std::exception& error) {
    set_failure(failure, ErrorCode::kInternal, error.what());
  }
  return failed;
}

Reader* open_reader(const char* path, const ReaderOptions& options, StreamInfo& info,
                    Failure& failure) {
  return guard(failure, path, static_cast<Reader*>(nullptr), [&] {
    auto reader = std::make_unique<Reader>(path, options);
    info = reader->stream.info();
    return reader.release();
  });
}

int read_frame(Reader* reader, FrameView& frame, Failure& failure) {
  return guard(failure, "video", -1, [&] { return reader->stream.read(frame) ? 1 : 0; });
}

int64_t broken_frames(const Reader* reader) { return reader->stream.broken_frames(); }

Progress progress(const Reader* reader) { return reader->stream.progress(); }

Shortfall shortfall(const Reader* reader) { return reader->stream.shortfall(); }

void close_reader(Reader* reader) { delete reader; }

Writer* create_writer(const WriterOptions& options, Failure& failure) {
  return guard(failure, options.name, static_cast<Writer*>(nullptr),
               [&] { return new Writer(options); });
}

int write_frame(Writer* writer, const uint8_t* rgb, std::ptrdiff_t stride, double time_s,
                Failure& failure) {
  return guard(failure, "video", -1, [&] {
    writer->file.write(rgb, stride, time_s);
    return 0;
  });
}

int finish_writer(Writer* writer, Failure& failure) {
  return guard(failure, "video", -1, [&] {
    writer->file.finish();
    return 0;
  });
}

void destroy_writer(Writer* writer) { delete writer; }

const Api kApi = {library_versions, open_reader,   read_frame,    broken_frames,
                  progress,         shortfall,     close_reader,  create_writer,
                  write_frame,      finish_writer, destroy_writer};

}  // namespace
}  // namespace rfseg::libav

extern "C" __attribute__((visibility("default"))) const rfseg::libav::Api* rfseg_libav_api(
    int abi_version, const rfseg::libav::Host* host) {
  if (abi_version != rfseg::libav::kAbiVersion) return nullptr;
  rfseg::libav::route_logging(host);
  return &rfseg::libav::kApi;
}
