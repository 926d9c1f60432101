#include "cli/input_set.h"

#include <algorithm>
#include <atomic>
#include <nlohmann/json.hpp>
#include <utility>

#include "pipeline/batch_runner.h"

namespace rfseg::cli {
namespace {

/// Frames that the only file is decoded ahead: its decoder's threads give them in bursts.
constexpr int kAhead = 16;

bool is_live(const Input& input) {
  return input.kind == InputKind::kVideo &&
         (input.path.find("://") != std::string::npos || input.path.starts_with("/dev/"));
}

/// Videos each for itself, pictures between them together.
std::vector<std::vector<Input>> grouped(const std::vector<Input>& inputs) {
  std::vector<std::vector<Input>> groups;
  for (const Input& input : inputs) {
    const bool joins = !groups.empty() && input.kind == InputKind::kImage &&
                       groups.back().back().kind == InputKind::kImage;
    if (!joins) groups.emplace_back();
    groups.back().push_back(input);
  }
  return groups;
}

/// Live inputs each for itself, all others together, in order.
std::vector<std::vector<Input>> live_apart(const std::vector<Input>& inputs) {
  std::vector<std::vector<Input>> groups;
  std::size_t files = inputs.size();  // which group they are
  for (const Input& input : inputs) {
    if (!is_live(input) && files < groups.size()) {
      groups[files].push_back(input);
      continue;
    }
    if (!is_live(input)) files = groups.size();
    groups.push_back({input});
  }
  return groups;
}

}  // namespace

InputSet::InputSet(const std::vector<Input>& inputs, const InputOptions& options, int streams,
                   const Engine& engine)
    : stop_(std::make_shared<std::atomic<bool>>(false)) {
  const auto live = static_cast<int>(std::count_if(inputs.begin(), inputs.end(), is_live));
  const bool by_default = streams == 0;
  if (by_default) {
    const bool files = static_cast<std::size_t>(live) < inputs.size();
    streams = std::max(1, live + (files ? 1 : 0));
  }
  InputOptions own = options;
  own.cancelled = [stop = stop_, asked = options.cancelled] { return *stop || (asked && asked()); };
  const bool video = std::any_of(inputs.begin(), inputs.end(), [](const Input& input) {
    return input.kind == InputKind::kVideo;
  });
  if (streams > 1) own.video.gpu_decoders = 1;  // they have the GPU's units among them
  const HostAllocator allocator = host_allocator(engine);
  const bool gpu = allocator.place == HeldPixels::Place::kPinned;
  // Beside a network on the CPU, decoding ahead of the batches in flight gains nothing.
  if (streams == 1 && live == 0 && (!gpu || !video)) {
    auto source = std::make_unique<InputSource>(inputs, own);
    inputs_.push_back(source.get());
    source_ = std::move(source);
    return;
  }
  // A live input is read by a thread of its own even when it is the only one, so that what nobody
  // has time for is dropped where it is decoded. Files that are read one after another are one
  // stream, which keeps their order.
  std::vector<std::vector<Input>> groups;
  if (by_default) {
    groups = live_apart(inputs);
  } else if (streams > 1) {
    groups = grouped(inputs);
  } else {
    groups.push_back(inputs);
  }
  std::vector<std::unique_ptr<FrameSource>> sources;
  for (std::vector<Input>& group : groups) {
    names_.push_back(group.front().path);
    auto source = std::make_unique<InputSource>(std::move(group), own);
    inputs_.push_back(source.get());
    sources.push_back(std::move(source));
  }
  MultiSource::Options several;
  several.at_once = streams;
  if (live == 0 && streams == 1) several.queue = kAhead;
  several.cancelled = own.cancelled;
  auto source = std::make_unique<MultiSource>(std::move(sources), PicturePool(allocator), several);
  several_ = source.get();
  source_ = std::move(source);
}

InputSet::~InputSet() { close(); }

void InputSet::close() {
  *stop_ = true;
  if (several_ != nullptr) several_->stop();
}

int64_t InputSet::sum(int64_t (InputSource::*count)() const) const {
  int64_t total = 0;
  for (const InputSource* input : inputs_) total += (input->*count)();
  return total;
}

int64_t InputSet::dropped() const {
  int64_t total = 0;
  if (several_ == nullptr) return total;
  for (const MultiSource::StreamStats& stream : several_->stats()) total += stream.dropped;
  return total;
}

nlohmann::json InputSet::streams() const {
  nlohmann::json all = nlohmann::json::array();
  if (several_ == nullptr) return all;
  const std::vector<MultiSource::StreamStats> stats = several_->stats();
  for (std::size_t i = 0; i < stats.size(); ++i) {
    all.push_back({{"input", names_[i]},
                   {"frames", stats[i].frames},
                   {"dropped", stats[i].dropped},
                   {"queue_max", stats[i].max_queue}});
  }
  return all;
}

}  // namespace rfseg::cli
