#include "media/libav/decoder_lanes.h"

#include <algorithm>
#include <new>
#include <utility>

namespace rfseg::libav {
namespace {

// Read for each frame that is asked for while there is one, so that the other decoders get work.
constexpr int kPacketsAFrame = 4;
// Frames of the group that is being shown, which its decoder makes even where many others wait.
constexpr std::size_t kMostOfFront = 8;
// Beyond the bounds for packets, for a decoder that is in the middle of a group.
constexpr std::size_t kMostBeyond = 4;
// Packets of a next group that may push frames out: more than pictures are reordered by.
constexpr std::size_t kMostPushing = 32;

}  // namespace

int64_t TimeGuess::operator()(int64_t pts, int64_t dts) {
  const bool has_pts = pts != AV_NOPTS_VALUE, has_dts = dts != AV_NOPTS_VALUE;
  if (has_dts) faulty_dts_ += dts <= last_dts_;
  if (has_pts) faulty_pts_ += pts <= last_pts_;
  if (has_dts || has_pts) {
    last_dts_ = has_dts ? dts : pts;
    last_pts_ = has_pts ? pts : dts;
  }
  return has_pts && (faulty_pts_ <= faulty_dts_ || !has_dts) ? pts : dts;
}

DecoderLanes::DecoderLanes(std::unique_ptr<LaneDecoder> first, const Limits& limits, Hooks hooks)
    : hooks_(std::move(hooks)),
      limits_(limits),
      lanes_(std::max(limits.decoders, std::size_t{1})),
      in_use_(lanes_.size()),
      groups_(1) {
  lanes_.front().decoder = std::move(first);
  start(lanes_.front());
}

DecoderLanes::~DecoderLanes() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    to_decode_.notify_all();
  }
  for (Lane& lane : lanes_) {
    if (lane.thread.joinable()) lane.thread.join();
  }
  for (const Group& group : groups_) {
    for (const LaneEvent& event : group.events) {
      if (event.view.kept != nullptr) hooks_.drop(event.view);
    }
  }
}

void DecoderLanes::start(Lane& lane) {
  lane.thread = std::thread([this, &lane] {
    try {
      work(lane);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      lane.failure = std::current_exception();
      lane.busy = false;
      to_show_.notify_all();
    }
    lane.decoder.reset();  // all at the same time: each takes a while
  });
}

/// Of those that are still there: a late frame goes to the group that is being shown.
DecoderLanes::Group& DecoderLanes::group_of(int64_t number) {
  const int64_t first = groups_.front().number, last = groups_.back().number;
  return groups_[static_cast<std::size_t>(std::clamp(number, first, last) - first)];
}

// ---- The thread that asks for frames.

bool DecoderLanes::may_read() {
  if (input_ended_) return false;
  const int64_t front = groups_.front().number;
  const Lane& lane = lane_of(front);
  // A decoder that has begun its next group cannot be drained: it needs more of that.
  const bool needed = lane.packets.empty() && lane.given > front;
  const std::size_t times = needed ? kMostBeyond : 1;
  return packets_ < times * limits_.packets && packet_bytes_ < times * limits_.packet_bytes;
}

void DecoderLanes::read_one(std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  AvPtr<AVPacket> packet(av_packet_alloc());
  if (!packet) throw std::bad_alloc();
  const bool got = hooks_.read(*packet);
  const bool begins = got && hooks_.begins_group(*packet);
  int64_t number = groups_.back().number + (begins ? 1 : 0);  // changed by this thread alone
  if (got && !lane_of(number).thread.joinable()) open_lane(number);
  lock.lock();
  if (!got) {
    input_ended_ = true;
    to_decode_.notify_all();
    return;
  }
  if (begins) {
    groups_.emplace_back();
    groups_.back().number = number;
  }
  ++packets_;
  packet_bytes_ += static_cast<std::size_t>(packet->size);
  Group& group = groups_.back();
  if (group.dts.size() < kMostPushing) group.dts.push_back(packet->dts);
  Lane& lane = lane_of(number);
  lane.packets.push_back({std::move(packet), number, group.packets++});
  if (!lane.busy) to_decode_.notify_all();
}

/// For the first group of a lane, which is the lane's number: with fewer lanes those of the groups
/// before stay what they are.
void DecoderLanes::open_lane(int64_t group) {
  Lane& lane = lane_of(group);
  lane.decoder = hooks_.open();
  if (lane.decoder) {
    lane.given = lane.shown = group;
    start(lane);
  } else {
    const std::lock_guard lock(mutex_);
    in_use_ = static_cast<std::size_t>(group);
  }
}

/// Where the bounds are reached and the decoder of the front group has nothing to do.
void DecoderLanes::go_on_without_reading() {
  Group& front = groups_.front();
  Lane& lane = lane_of(front.number);
  if (input_ended_ || lane.busy || lane.drain || !lane.packets.empty()) return;
  if (lane.given > front.number) {
    front.over = true;  // nothing of its next group can be decoded
  } else {
    lane.drain = true;
    to_decode_.notify_all();
  }
}

bool DecoderLanes::next(LaneEvent& event) {
  std::unique_lock lock(mutex_);
  for (int i = 0; i < kPacketsAFrame && may_read(); ++i) read_one(lock);
  for (;;) {
    Group& front = groups_.front();
    if (!front.events.empty()) {
      event = std::move(front.events.front());
      front.events.pop_front();
      if (event.shows()) event.best_effort = guess_(event.pts, event.dts);
      if (event.kind == LaneEvent::Kind::kFrame) {
        --front.frames;
        --frames_;
        // Else nobody waits for this.
        if (frames_ + 1 == limits_.frames_ahead || front.frames + 1 == kMostOfFront) {
          to_decode_.notify_all();
        }
      }
      return true;
    }
    if (front.over && (groups_.size() > 1 || input_ended_)) {
      if (groups_.size() == 1) return false;
      groups_.pop_front();
      to_decode_.notify_all();
    } else if (may_read()) {
      read_one(lock);
    } else if (const Lane& lane = lane_of(front.number); lane.failure) {
      std::rethrow_exception(lane.failure);
    } else {
      go_on_without_reading();
      if (!front.over) to_show_.wait(lock);
    }
  }
}

// ---- The decoders' threads.

bool DecoderLanes::may_decode(const Lane& lane) {
  const Group& front = groups_.front();
  return frames_ < limits_.frames_ahead ||
         (&lane_of(front.number) == &lane && front.frames < kMostOfFront);
}

void DecoderLanes::work(Lane& lane) {
  const AvPtr<AVFrame> frame(av_frame_alloc());
  if (!frame) throw std::bad_alloc();
  for (;;) {
    std::unique_lock lock(mutex_);
    lane.busy = false;
    to_show_.notify_all();
    const auto ended = [&] { return input_ended_ && lane.packets.empty(); };
    to_decode_.wait(lock, [&] {
      return stopping_ || lane.drain || ended() || (!lane.packets.empty() && may_decode(lane));
    });
    if (stopping_) return;
    lane.busy = true;
    if (lane.drain || ended()) {
      const bool end = ended();
      lock.unlock();
      drain(lane, *frame, end);
      if (end) return;
      continue;
    }
    Packet packet = std::move(lane.packets.front());
    lane.packets.pop_front();
    --packets_;
    packet_bytes_ -= static_cast<std::size_t>(packet.packet->size);
    lane.given = packet.group;
    lane.dts = packet.packet->dts;
    lane.at = packet.at;
    lock.unlock();
    decode(lane, std::move(packet), *frame);
  }
}

void DecoderLanes::decode(Lane& lane, Packet next, AVFrame& frame) {
  AVPacket& packet = *next.packet;
  if ((packet.flags & AV_PKT_FLAG_DISCARD) == 0) {
    LaneEvent given;
    given.pts = packet.pts;
    given.key = (packet.flags & AV_PKT_FLAG_KEY) != 0;
    add(lane, next.group, std::move(given));
  }
  mark_packet(*lane.decoder->context, packet, next.group);
  const int result = avcodec_send_packet(lane.decoder->context.get(), &packet);
  if (result == AVERROR(ENOMEM)) throw std::bad_alloc();
  if (result < 0) {
    LaneEvent broken;
    broken.kind = LaneEvent::Kind::kBroken;
    add(lane, next.group, std::move(broken));
  }
  receive(lane, frame);
}

/// All that the decoder holds: at the end of the input, or where its next group is too far away.
void DecoderLanes::drain(Lane& lane, AVFrame& frame, bool ended) {
  lane.dts = AV_NOPTS_VALUE;
  lane.at = 0;
  lane.draining = true;
  avcodec_send_packet(lane.decoder->context.get(), nullptr);
  while (!receive(lane, frame)) {
  }
  if (!ended) avcodec_flush_buffers(lane.decoder->context.get());
  lane.draining = false;
  const std::lock_guard lock(mutex_);
  lane.drain = false;
  end_groups(lane, ended ? groups_.back().number + 1 : lane.given + 1);
}

/// Takes what the decoder has ready. True at its end.
bool DecoderLanes::receive(Lane& lane, AVFrame& frame) {
  for (;;) {
    const int result = avcodec_receive_frame(lane.decoder->context.get(), &frame);
    if (result == AVERROR(EAGAIN)) return false;
    if (result == AVERROR_EOF) return true;
    if (result == AVERROR(ENOMEM)) throw std::bad_alloc();
    LaneEvent event;
    if (result < 0) {
      event.kind = LaneEvent::Kind::kBroken;
      add(lane, lane.shown, std::move(event));
      continue;
    }
    event.kind = LaneEvent::Kind::kFrame;
    event.pts = frame.pts;
    event.dts = frame.pkt_dts;
    // What was given to the first decoder before has no mark.
    const int64_t group = std::max(mark_of(frame), lane.shown);
    const bool at_end = lane.draining || group < lane.given;
    if (at_end && frame.pkt_dts == lane.dts) event.dts = dts_behind(group, lane.at);
    if (lane.draining) ++lane.at;
    if (is_damaged(frame)) {
      event.kind = LaneEvent::Kind::kDamaged;
    } else {
      lane.decoder->take(frame, event);
    }
    add(lane, group, std::move(event));
    lane.decoder->settle();
    av_frame_unref(&frame);
  }
}

/// Of the packet so many behind a group, which pushes a frame of that out of a decoder alone.
int64_t DecoderLanes::dts_behind(int64_t number, std::size_t packets) {
  const std::lock_guard lock(mutex_);
  for (const Group& group : groups_) {
    if (group.number <= number) continue;
    if (packets < group.packets) {
      return packets < group.dts.size() ? group.dts[packets] : AV_NOPTS_VALUE;
    }
    packets -= group.packets;
  }
  return AV_NOPTS_VALUE;
}

void DecoderLanes::add(Lane& lane, int64_t number, LaneEvent event) {
  const std::lock_guard lock(mutex_);
  if (event.shows() && number > lane.shown) {
    lane.shown = number;
    end_groups(lane, number);
  }
  Group& group = group_of(number);
  if (event.kind == LaneEvent::Kind::kFrame) {
    ++group.frames;
    ++frames_;
  }
  group.events.push_back(std::move(event));
  if (&group == &groups_.front()) to_show_.notify_all();
}

/// The lane's groups before the one of this number are over.
void DecoderLanes::end_groups(const Lane& lane, int64_t before) {
  for (Group& group : groups_) {
    if (group.number < before && &lane_of(group.number) == &lane) group.over = true;
  }
  to_show_.notify_all();
}

}  // namespace rfseg::libav
