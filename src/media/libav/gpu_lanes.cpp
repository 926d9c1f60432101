#include "media/libav/gpu_lanes.h"

#include <algorithm>
#include <new>
#include <utility>

namespace rfseg::libav {
namespace {

// What is read in search of the next group; without one in sight a single decoder goes on.
constexpr std::size_t kMostPackets = 1500, kMostBytes = std::size_t{64} << 20;

}  // namespace

GroupStarts::GroupStarts(const AVCodecParameters& stream)
    : hevc_(stream.codec_id == AV_CODEC_ID_HEVC) {
  // ISO/IEC 14496-15, 5.2.4.1 and 8.3.3.1: version 1, and where the length of a length is.
  const int at = hevc_ ? 21 : 4;
  if (stream.extradata_size > at && stream.extradata[0] == 1) {
    length_bytes_ = (stream.extradata[at] & 3) + 1;
  }
}

void GroupStarts::look_at(int header) {
  const int type = hevc_ ? header >> 1 & 63 : header & 31;
  idr_ = idr_ || (hevc_ ? type == 19 || type == 20 : type == 5);
  sets_ = sets_ || (hevc_ ? type == 33 : type == 7);
}

bool GroupStarts::operator()(const AVPacket& packet) {
  idr_ = sets_ = false;
  const uint8_t* data = packet.data;
  const auto size = static_cast<std::size_t>(std::max(packet.size, 0));
  if (length_bytes_ > 0) {
    const auto width = static_cast<std::size_t>(length_bytes_);
    for (std::size_t at = 0; size - at > width;) {
      std::size_t length = 0;
      for (std::size_t i = 0; i < width; ++i) length = length << 8 | data[at + i];
      at += width;
      look_at(data[at]);
      if (length > size - at) break;
      at += length;
    }
  } else {
    for (std::size_t at = 0; at + 3 < size; ++at) {
      if (data[at] == 0 && data[at + 1] == 0 && data[at + 2] == 1) look_at(data[at += 3]);
    }
  }
  sets_in_stream_ = sets_in_stream_ || sets_;
  return idr_ && (packet.flags & AV_PKT_FLAG_KEY) != 0 && (sets_ || !sets_in_stream_);
}

GpuLanes::GpuLanes(AvPtr<AVCodecContext> first, int decoders, std::size_t most_ahead, Hooks hooks)
    : hooks_(std::move(hooks)),
      most_decoders_(static_cast<std::size_t>(std::max(decoders, 1))),
      most_ahead_(most_ahead),
      frame_(av_frame_alloc()) {
  if (!frame_) throw std::bad_alloc();
  groups_.push_back(std::make_unique<Group>());
  groups_.front()->decoder = first.get();
  decoders_.push_back(std::move(first));
}

GpuLanes::~GpuLanes() {
  hooks_.settle();
  for (const auto& group : groups_) {
    for (const Frame& frame : group->frames) {
      if (!frame.damaged) hooks_.drop(frame.view);
    }
  }
}

void GpuLanes::read_ahead() {
  while (!input_ended_ && groups_.size() <= most_decoders_ && packets_held_ < kMostPackets &&
         bytes_held_ < kMostBytes) {
    AvPtr<AVPacket> packet(av_packet_alloc());
    if (!packet) throw std::bad_alloc();
    if (!hooks_.read(*packet)) {
      input_ended_ = true;
      groups_.back()->complete = true;
      return;
    }
    if (hooks_.begins_group(*packet)) {
      groups_.back()->complete = true;
      groups_.push_back(std::make_unique<Group>());
    }
    ++packets_held_;
    bytes_held_ += static_cast<std::size_t>(packet->size);
    groups_.back()->packets.push_back(std::move(packet));
  }
}

/// nullptr while all are at work.
AVCodecContext* GpuLanes::idle_decoder() {
  if (idle_.empty() && decoders_.size() < most_decoders_) {
    decoders_.push_back(hooks_.open_decoder());
    idle_.push_back(decoders_.back().get());
  }
  if (idle_.empty()) return nullptr;
  AVCodecContext* decoder = idle_.back();
  idle_.pop_back();
  return decoder;
}

void GpuLanes::feed(Group& group) {
  int result = 0;
  if (group.packets.empty()) {
    group.flushed = true;
    result = avcodec_send_packet(group.decoder, nullptr);
  } else {
    const AvPtr<AVPacket> packet = std::move(group.packets.front());
    group.packets.pop_front();
    --packets_held_;
    bytes_held_ -= static_cast<std::size_t>(packet->size);
    hooks_.settle();  // the frame before may be given back to the decoder
    result = avcodec_send_packet(group.decoder, packet.get());
  }
  if (result == AVERROR(ENOMEM)) throw std::bad_alloc();
  if (result < 0 && !group.flushed) hooks_.broken();
}

void GpuLanes::receive(Group& group) {
  for (;;) {
    hooks_.settle();
    const int result = avcodec_receive_frame(group.decoder, frame_.get());
    if (result == AVERROR(EAGAIN) && !group.flushed) return;
    if (result == AVERROR_EOF || result == AVERROR(EAGAIN)) break;
    if (result == AVERROR(ENOMEM)) throw std::bad_alloc();
    if (result < 0) {
      hooks_.broken();
      continue;
    }
    Frame frame;
    frame.pts = frame_->pts;
    frame.best_effort = frame_->best_effort_timestamp;
    frame.damaged = is_damaged(*frame_);
    if (!frame.damaged) frame.view = hooks_.keep(*frame_);
    group.frames.push_back(frame);
  }
  hooks_.settle();
  av_frame_unref(frame_.get());
  avcodec_flush_buffers(group.decoder);  // ready for another group
  group.done = true;
  idle_.push_back(std::exchange(group.decoder, nullptr));
}

void GpuLanes::decode_a_packet_each() {
  std::size_t ahead = 0;
  for (std::size_t i = 1; i < groups_.size(); ++i) ahead += groups_[i]->frames.size();
  for (std::size_t i = 0; i < std::min(groups_.size(), most_decoders_); ++i) {
    Group& group = *groups_[i];
    if (group.done || (i > 0 && ahead >= most_ahead_)) continue;
    if (group.packets.empty() && !group.complete) continue;
    if (group.decoder == nullptr) group.decoder = idle_decoder();
    if (group.decoder == nullptr) continue;
    feed(group);
    receive(group);
  }
}

bool GpuLanes::next(Frame& frame) {
  for (;;) {
    Group& group = *groups_.front();
    if (!group.frames.empty()) {
      frame = group.frames.front();
      group.frames.pop_front();
      return true;
    }
    if (group.done) {
      if (groups_.size() == 1) {
        if (input_ended_) return false;
        groups_.push_back(std::make_unique<Group>());
      }
      groups_.pop_front();
      continue;
    }
    read_ahead();
    decode_a_packet_each();
  }
}

}  // namespace rfseg::libav
