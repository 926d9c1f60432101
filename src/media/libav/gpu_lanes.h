#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "media/libav/compat.h"
#include "media/libav/libav_api.h"

namespace rfseg::libav {

/// True when decoding may begin at this packet without anything from before it: it holds an IDR
/// picture, and parameter sets if the stream has ever had some among its packets. Packets are given
/// in their order; H.264 and HEVC, in MP4's form or with start codes.
class GroupStarts {
 public:
  explicit GroupStarts(const AVCodecParameters& stream);
  bool operator()(const AVPacket& packet);

 private:
  void look_at(int type);
  bool hevc_;
  int length_bytes_ = 0;  // of a unit in MP4's form; 0: start codes
  bool sets_in_stream_ = false, sets_ = false, idr_ = false;
};

/// One stream on several of a GPU's decoders, of which each is one of a few units in hardware that
/// decode at the rate of one: each takes a group of pictures of its own. Frames come in the order
/// of the stream; those of later groups wait in copies, `most_ahead` at most.
class GpuLanes {
 public:
  struct Frame {
    FrameView view;  ///< kept
    int64_t pts = AV_NOPTS_VALUE, best_effort = AV_NOPTS_VALUE;
    bool damaged = false;  ///< no view
  };
  struct Hooks {
    std::function<bool(AVPacket&)> read;  ///< false at the end of the input
    std::function<bool(const AVPacket&)> begins_group;
    std::function<AvPtr<AVCodecContext>()> open_decoder;
    std::function<FrameView(const AVFrame&)> keep;  ///< a copy, perhaps not yet complete
    std::function<void()> settle;                   ///< the copies are complete
    std::function<void(const FrameView&)> drop;
    std::function<void()> broken;  ///< a packet could not be decoded
  };
  /// `first` is decoding the first group already; the others are opened when there is work for
  /// them.
  GpuLanes(AvPtr<AVCodecContext> first, int decoders, std::size_t most_ahead, Hooks hooks);
  ~GpuLanes();
  GpuLanes(const GpuLanes&) = delete;
  GpuLanes& operator=(const GpuLanes&) = delete;

  /// False at the end of the stream.
  bool next(Frame& frame);

 private:
  struct Group {
    std::deque<AvPtr<AVPacket>> packets;
    std::deque<Frame> frames;
    AVCodecContext* decoder = nullptr;
    bool complete = false;  // all its packets are here
    bool flushed = false, done = false;
  };
  void read_ahead();
  AVCodecContext* idle_decoder();
  void decode_a_packet_each();
  void feed(Group& group);
  void receive(Group& group);

  Hooks hooks_;
  std::vector<AvPtr<AVCodecContext>> decoders_;
  std::vector<AVCodecContext*> idle_;
  std::deque<std::unique_ptr<Group>> groups_;
  std::size_t most_decoders_, most_ahead_, packets_held_ = 0, bytes_held_ = 0;
  AvPtr<AVFrame> frame_;
  bool input_ended_ = false;
};

}  // namespace rfseg::libav
