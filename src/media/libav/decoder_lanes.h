#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "media/libav/compat.h"
#include "media/libav/libav_api.h"

namespace rfseg::libav {

/// What a decoder did with its packets, in its order.
struct LaneEvent {
  enum class Kind {
    kPacket,   ///< one that holds a frame was given to it; `pts`
    kBroken,   ///< it could not decode a packet
    kDamaged,  ///< a frame that is damaged; `pts`
    kFrame     ///< `view` where that is kept, else `host`
  };
  Kind kind = Kind::kPacket;
  bool key = false;  ///< of a packet
  int64_t pts = AV_NOPTS_VALUE, best_effort = AV_NOPTS_VALUE;
  int64_t dts = AV_NOPTS_VALUE;  ///< of the packet that pushed the frame out
  FrameView view;
  AvPtr<AVFrame> host;
  bool shows() const { return kind == Kind::kFrame || kind == Kind::kDamaged; }
};

/// FFmpeg's rule for AVFrame::best_effort_timestamp, for frames in the order in which they are
/// shown: the decoding times where those of presentation are missing or out of order more often.
class TimeGuess {
 public:
  int64_t operator()(int64_t pts, int64_t dts);

 private:
  int64_t last_pts_ = AV_NOPTS_VALUE, last_dts_ = AV_NOPTS_VALUE;
  int64_t faulty_pts_ = 0, faulty_dts_ = 0;
};

/// One of the decoders, on a thread of its own.
class LaneDecoder {
 public:
  virtual ~LaneDecoder() = default;
  AvPtr<AVCodecContext> context;  ///< with request_marks (compat.h)
  /// Sets `event.view` to a copy, perhaps still under way, or `event.host` to the frame itself.
  virtual void take(AVFrame& frame, LaneEvent& event) = 0;
  /// The copies are complete.
  virtual void settle() = 0;
};

/// One stream on several decoders, of which each is as fast as one unit of the GPU: group after
/// group of pictures (GroupStarts) goes to the next in turn, and what they give is put in order
/// again. `best_effort` is what one decoder would have said. No decoder is told of an end between
/// its groups, since FFmpeg would make NVDEC's anew after that, which takes 45 ms: its next group
/// pushes the last frames of the one before out. Packets are read by the thread that asks for
/// frames, and bounded; frames before their turn wait, `most_ahead` and a few, and hold up the
/// decoders that are ahead.
class DecoderLanes {
 public:
  struct Hooks {
    std::function<bool(AVPacket&)> read;  ///< false at the end of the input
    std::function<bool(const AVPacket&)> begins_group;
    /// One more; nullptr where none is to be had: those that there are do its work, and none is
    /// asked for again.
    std::function<std::unique_ptr<LaneDecoder>()> open;
    std::function<void(const FrameView&)> drop;  ///< frees a kept view, from any thread
  };
  struct Limits {
    std::size_t decoders = 1;
    std::size_t frames_ahead = 1;
    /// Of packets not yet decoded. Where no second group begins within them, one decoder goes on.
    std::size_t packets = 1500, packet_bytes = std::size_t{128} << 20;
  };
  /// `first` is decoding the first group already; the others are opened with their first packet.
  DecoderLanes(std::unique_ptr<LaneDecoder> first, const Limits& limits, Hooks hooks);
  ~DecoderLanes();
  DecoderLanes(const DecoderLanes&) = delete;
  DecoderLanes& operator=(const DecoderLanes&) = delete;

  /// False at the end of the stream. What `read`, `open` or a decoder threw is thrown.
  bool next(LaneEvent& event);

 private:
  struct Group {
    int64_t number = 0;
    std::deque<LaneEvent> events;
    std::size_t frames = 0;    // of the events
    std::vector<int64_t> dts;  // of its first packets
    std::size_t packets = 0;   // read so far
    bool over = false;         // nothing more comes
  };
  struct Packet {
    AvPtr<AVPacket> packet;
    int64_t group = 0;
    std::size_t at = 0;  // in the group
  };
  struct Lane {
    std::unique_ptr<LaneDecoder> decoder;  // of its thread, once that runs
    std::deque<Packet> packets;
    int64_t given = 0;             // last group of which it was given a packet
    int64_t shown = 0;             // last group of which it gave a frame
    int64_t dts = AV_NOPTS_VALUE;  // of the packet given last; none while it is drained
    std::size_t at = 0;            // that packet's place in its group, or frames drained
    bool draining = false;
    bool busy = false, drain = false;
    std::exception_ptr failure;
    std::thread thread;
  };
  Lane& lane_of(int64_t group) { return lanes_[static_cast<std::size_t>(group) % in_use_]; }
  Group& group_of(int64_t number);
  bool may_read();
  void read_one(std::unique_lock<std::mutex>& lock);
  void open_lane(int64_t group);
  void go_on_without_reading();
  void start(Lane& lane);

  // On a lane's thread.
  void work(Lane& lane);
  bool may_decode(const Lane& lane);
  void decode(Lane& lane, Packet packet, AVFrame& frame);
  void drain(Lane& lane, AVFrame& frame, bool ended);
  bool receive(Lane& lane, AVFrame& frame);
  void add(Lane& lane, int64_t group, LaneEvent event);
  void end_groups(const Lane& lane, int64_t before);
  int64_t dts_behind(int64_t number, std::size_t packets);

  Hooks hooks_;
  Limits limits_;
  std::mutex mutex_;
  std::condition_variable to_decode_, to_show_;
  std::vector<Lane> lanes_;  // guarded by mutex_ but for `decoder`, as all below
  std::size_t in_use_;       // of lanes_, from the first; changed by next's thread alone
  std::deque<Group> groups_;
  std::size_t packets_ = 0, packet_bytes_ = 0, frames_ = 0;  // that wait
  bool input_ended_ = false, stopping_ = false;
  TimeGuess guess_;  // of next's thread
};

}  // namespace rfseg::libav
