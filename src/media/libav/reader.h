#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <string>

#include "media/libav/compat.h"
#include "media/libav/decoder_lanes.h"
#include "media/libav/frame_converter.h"
#include "media/libav/frame_counter.h"
#include "media/libav/group_starts.h"
#include "media/libav/libav_api.h"
#include "media/libav/watch.h"

namespace rfseg::libav {

/// 8192 x 8192: twice 8K. A decoder holds up to 20 such frames.
inline constexpr int64_t kMaxPixels = int64_t{1} << 26;

/// Demultiplexes and decodes the video stream of one file, URL or device.
class StreamReader {
 public:
  StreamReader(const char* path, const ReaderOptions& options);
  ~StreamReader() { settle(); }
  StreamReader(const StreamReader&) = delete;
  StreamReader& operator=(const StreamReader&) = delete;

  StreamInfo info() const;
  /// False at the end of the stream.
  bool read(FrameView& view);
  int64_t broken_frames() const { return broken_; }
  Progress progress() const { return progress_; }
  Shortfall shortfall() const { return shortfall_; }

 private:
  enum class Source { kFile, kNetwork, kDevice };

  void open_input();
  void open_stream();
  void open_decoder();
  AvPtr<AVCodecContext> open_cpu_decoder(int threads);
  bool open_gpu_decoder();
  static AVPixelFormat choose_format(AVCodecContext* decoder, const AVPixelFormat* offered);
  void tell_fallback(const std::string& why) const;
  void decode_on_cpu_instead();
  AvPtr<AVCodecContext> make_gpu_decoder(const AVCodec* codec, AVBufferRef* device, int& result);
  bool is_faster_on_gpu();
  bool has_short_groups();
  bool may_share() const;
  bool share_among_decoders();
  std::unique_ptr<LaneDecoder> open_lane(const AVCodec& codec);
  bool read_ahead(AVPacket& packet);
  bool next_of_lanes(LaneEvent& shown);
  void settle();
  void go_to_start();
  bool seek_by_index(int64_t target);
  int64_t decode_beginning(std::deque<AvPtr<AVPacket>>& packets);
  void scan_to_start();

  void arm();
  void keep_clock(AVPacket& packet);
  void keep_end(const AVPacket& packet);
  int64_t stated_end() const;
  void check_length();
  bool read_packet(AVPacket& packet);
  bool next_packet(AVPacket& packet);
  bool feed_decoder();
  bool decode();
  bool next_frame(LaneEvent& shown);
  FrameView view_of(LaneEvent& shown);
  void drop(const LaneEvent& shown) const;
  void check_failures() const;
  double frame_time(int64_t timestamp);
  double stream_time(int64_t timestamp);
  double place(int64_t index, double time);
  bool holds_frame(const AVPacket& packet) const;
  void count_broken();
  [[noreturn]] void fail_read(const std::string& what, int error);
  double to_seconds(int64_t timestamp) const;

  std::string name_;
  ReaderOptions options_;
  Source source_ = Source::kFile;
  std::unique_ptr<Watch> watch_;
  AvPtr<AVFormatContext> format_;
  AVStream* stream_ = nullptr;
  int width_ = 0, height_ = 0;  // of the frames given out
  const AVCodec* codec_ = nullptr;
  AvPtr<AVBufferRef> gpu_;                // set while decoder_ is to decode on the GPU
  std::atomic<bool> gpu_refused_{false};  // also set on lanes_' threads
  bool copying_ = false;                  // a frame, by the keeper
  AvPtr<AVCodecContext> decoder_;
  std::unique_ptr<FrameConverter> converter_;
  std::unique_ptr<GroupStarts> group_starts_;  // where several decoders may share the stream
  std::unique_ptr<DecoderLanes> lanes_;        // instead of decoder_, once several share the work
  AvPtr<AVPacket> packet_;
  AvPtr<AVFrame> frame_, host_frame_;
  std::deque<AvPtr<AVPacket>> ahead_;  // read while looking for the start, not yet decoded
  std::deque<AvPtr<AVPacket>> given_;  // to a decoder on the GPU that has given no frame yet

  FrameCounter counter_, counter_at_start_;
  int64_t zero_time_ = AV_NOPTS_VALUE;  // time stamp of time_s = 0
  int64_t last_dts_ = AV_NOPTS_VALUE;   // of the packet read last
  int64_t until_ = AV_NOPTS_VALUE;      // when the packets read so far end
  int64_t latest_ = AV_NOPTS_VALUE;     // of their times
  int64_t longest_gap_ = 0;             // between two of these, in the order of presentation
  int64_t clock_offset_ = 0;            // added to the times of packets since the clock jumped back
  bool live_ = false;
  bool by_clock_ = false;  // live, and the stream tells no times
  int64_t last_timestamp_ = AV_NOPTS_VALUE;
  int64_t first_seen_us_ = 0;  // when the first frame was, by the steady clock
  double frame_rate_ = 0;
  double last_time_ = -1;  // of this connection, as all above
  Progress progress_;
  double connected_at_ = 0;  // time_s of this connection's time 0
  int64_t broken_ = 0;
  int64_t decoded_ = 0;
  int failures_in_a_row_ = 0;
  bool input_ended_ = false;
  bool ended_ = false;
  bool cut_short_ = false;
  Shortfall shortfall_;
  std::exception_ptr broken_off_;  // what ended the input, thrown after its last frame
};

}  // namespace rfseg::libav
