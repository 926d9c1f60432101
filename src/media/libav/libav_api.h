#pragma once

#include <cstddef>
#include <cstdint>

// The border between rfseg and rfseg_libav.so, the one module that links FFmpeg. It is loaded when
// the first video is opened, so that a program without FFmpeg installed still reads pictures. Only
// plain structs and function pointers cross it: no exception, no C++ object, no allocation that one
// side makes and the other frees.

namespace rfseg::libav {

/// Changes with every change of a struct or a meaning below.
inline constexpr int kAbiVersion = 8;
/// The module's one exported function: `const Api* rfseg_libav_api(int abi_version, const Host*)`.
/// Returns nullptr when it was built for another version.
inline constexpr const char* kEntryPoint = "rfseg_libav_api";

/// What went wrong in the module. `code` is a value of rfseg::ErrorCode.
struct Failure {
  int code = 0;
  char message[1024] = {};
};

/// What the module uses of its host. The struct outlives the module's use.
struct Host {
  /// `level` is a value of rfseg::LogLevel. Thread-safe.
  void (*log)(int level, const char* message) = nullptr;
};

struct FrameView;

/// What keeps one GPU decoder's frames for the host. Called on that decoder's thread.
struct Keeper {
  /// A CUstream for what the decoder writes. nullptr: nothing is decoded on a GPU.
  void* stream = nullptr;
  /// Makes `view`, whose planes are the decoder's, one of memory of the host's, perhaps with a copy
  /// that is still under way on the stream, and sets view.kept. False: `failure` is set.
  bool (*keep)(void* context, FrameView& view, Failure& failure) = nullptr;
  /// Waits until all copies are there.
  void (*settle)(void* context) = nullptr;
  /// Frees what `keep` made and the reader does not give out. From any thread.
  void (*drop)(void* kept) = nullptr;
  /// One for another decoder, which lives as long as the reader; the GPU's context is current on
  /// the calling thread then. False: `failure` is set. On the thread that calls the reader.
  bool (*another)(void* context, Keeper& keeper, Failure& failure) = nullptr;
  void* context = nullptr;
};

/// How far a live stream has come over all its connections: told by the reader of one, for the next
/// one's. Times of the steady clock are in microseconds.
struct Progress {
  int64_t frames = 0;     ///< the number of the next one; 0: there was none yet
  double time_s = 0;      ///< of the last one
  int64_t zero_us = 0;    ///< the steady clock at time_s = 0
  int64_t last_us = 0;    ///< the steady clock when the last one was decoded
  bool past_end = false;  ///< the last one is not before end_s
};

/// Of a file that ends before the length that it states, and before end_s: when it ends and how
/// long it is, in seconds on the clock of FrameView::time_s. Both 0 of any other.
struct Shortfall {
  double ends_s = 0;
  double stated_s = 0;
};

struct ReaderOptions {
  int every = 1;
  double start_s = 0;
  double end_s = -1;
  Progress so_far;  ///< with frames: numbers and times of a live stream go on from there
  int threads = 1;
  double timeout_s = 30;      ///< networks and devices, for opening and for each read
  int width = 0, height = 0;  ///< frames are scaled to this upright size; 0: the stream's
  /// With a stream, of the context that is current on the calling thread: frames are decoded by the
  /// GPU where it can.
  Keeper keeper;
  bool only_where_faster = false;  ///< than many processors: HEVC and what decoders can share
  int gpu_decoders = 1;            ///< that may share a file (decoder_lanes.h)
  int64_t fewest_to_share = 0;     ///< frames of a file that tells how many it has
  int64_t most_bytes_ahead = 0;    ///< of their frames that wait for their turn
  bool tell_fallback = false;      ///< one line at warning level where the GPU was asked in vain
  /// Polled during blocking calls, possibly from FFmpeg's own threads; may be nullptr.
  bool (*cancelled)(void* context) = nullptr;
  void* cancelled_context = nullptr;
};

struct StreamInfo {
  int width = 0, height = 0;
  double frame_rate = 0;
  double duration_s = 0;
  int64_t frames = 0;
  bool live = false;
  bool on_gpu = false;  ///< of the decoder; may change with the first frames
  char codec[32] = {};
};

/// Pixels of one frame: enumerations are those of rfseg/image.h as integers.
struct FrameView {
  void* kept = nullptr;  ///< by the keeper: the receiver's from now on
  bool on_gpu = false;   ///< planes are device pointers
  const uint8_t* planes[3] = {};
  std::ptrdiff_t strides[3] = {};
  int width = 0, height = 0;
  int format = 0, matrix = 0, range = 0;
  int64_t index = 0;
  double time_s = 0;
};

struct WriterOptions {
  const char* path = nullptr;  ///< the file that is written
  bool streamed = false;       ///< a pipe or device: nothing that was written may be changed later
  const char* name = nullptr;  ///< its name in messages
  int width = 0, height = 0;
  double frame_rate = 0;
  int threads = 1;
};

struct Reader;
struct Writer;

struct Api {
  /// Names and versions of the libraries, static storage.
  const char* (*version)() = nullptr;

  /// nullptr on failure.
  Reader* (*open)(const char* path, const ReaderOptions& options, StreamInfo& info,
                  Failure& failure) = nullptr;
  /// 1: `frame` is valid until the next call, or as long as it is kept; 0: end of the stream; -1:
  /// `failure` is set.
  int (*read)(Reader* reader, FrameView& frame, Failure& failure) = nullptr;
  int64_t (*broken_frames)(const Reader* reader) = nullptr;
  /// Of the frames decoded, not only those that `read` gave.
  Progress (*progress)(const Reader* reader) = nullptr;
  /// Known once `read` has given 0.
  Shortfall (*shortfall)(const Reader* reader) = nullptr;
  void (*close)(Reader* reader) = nullptr;

  /// nullptr on failure.
  Writer* (*create)(const WriterOptions& options, Failure& failure) = nullptr;
  /// Packed RGB rows of the size given at creation. 0, or -1 and `failure` is set.
  int (*write)(Writer* writer, const uint8_t* rgb, std::ptrdiff_t stride, double time_s,
               Failure& failure) = nullptr;
  /// Ends the file; nothing but `destroy` may follow. 0, or -1 and `failure` is set.
  int (*finish)(Writer* writer, Failure& failure) = nullptr;
  void (*destroy)(Writer* writer) = nullptr;
};

using EntryPoint = const Api* (*)(int abi_version, const Host* host);

}  // namespace rfseg::libav
