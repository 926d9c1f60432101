// Which ways there are to run a model over a clip, by name, in the order in which they are told.

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "cli/verbs/bench_video_runs.h"

namespace rfseg::cli {

/// The first is what the others are compared with.
std::vector<VideoRuns::ComparedWay> VideoRuns::ways_to_compare(const VideoSizeResults& r) {
  const auto from_file = [&](const char* name, VideoDecoder decoder, int depth) {
    return ComparedWay{name, r.frames, [this, &r, decoder, depth] {
                         return lines(inputs(r.file, decoder).source(), depth);
                       }};
  };
  std::vector<ComparedWay> ways;
  ways.push_back({"one frame at a time", r.frames,
                  [this, &r] { return lines(*open(r.file, VideoDecoder::kCpu), 1); }});
  ways.push_back(from_file("the pipeline", VideoDecoder::kCpu, settings_.depth));
  if (cuda_ == nullptr) return ways;
  if (r.nvdec) {
    ways.push_back(from_file("NVDEC", VideoDecoder::kNvdec, settings_.depth));
    ways.push_back(from_file("NVDEC, one frame at a time", VideoDecoder::kNvdec, 1));
  }
  for (const auto* held : {&pinned_, &device_}) {
    for (const int depth : {1, settings_.depth}) {
      const auto count = static_cast<int64_t>(held->size());
      ways.push_back({held == &pinned_ ? "frames in pinned memory" : "frames on the GPU", count,
                      [this, held, depth, count] {
                        PreloadedSource source(*held, count);
                        return lines(source, depth);
                      }});
    }
  }
  return ways;
}

std::vector<VideoRuns::Way> VideoRuns::ways_to_time(VideoSizeResults& r) {
  const int64_t frames = r.frames * repeats_;
  const int depth = settings_.depth;
  const std::string deep = fmt::format("depth {}", depth);
  std::vector<Way> ways;
  const auto decoding = [&](const char* name, VideoDecoder decoder) {
    ways.push_back({fmt::format("decoding alone, {}", name), frames,
                    [=, this, &r](const Way& way) { time_decoding(r, way, decoder); }});
  };
  const auto from_file = [&](const char* name, VideoDecoder decoder, int deepness) {
    ways.push_back({fmt::format("from the file, {}, depth {}", name, deepness), frames,
                    [=, this, &r](const Way& way) {
                      time_run(r, way, inputs(r.file, decoder, repeats_).source(), deepness);
                    }});
  };
  const auto at_once = [&](const char* name, VideoDecoder decoder) {
    const int files = settings_.streams * std::max(1, repeats_ / 2);
    ways.push_back({fmt::format("{} files at once, {}, {}", settings_.streams, name, deep),
                    r.frames * files, [=, this, &r](const Way& way) {
                      time_run(r, way, inputs(r.file, decoder, files, settings_.streams).source(),
                               depth);
                    }});
  };
  decoding("CPU", VideoDecoder::kCpu);
  from_file("CPU decoder", VideoDecoder::kCpu, 1);
  from_file("CPU decoder", VideoDecoder::kCpu, depth);
  if (r.nvdec) {
    decoding("NVDEC", VideoDecoder::kNvdec);
    from_file("NVDEC", VideoDecoder::kNvdec, depth);
  }
  if (settings_.streams > 0) {
    at_once("CPU decoder", VideoDecoder::kCpu);
    if (r.nvdec) at_once("NVDEC", VideoDecoder::kNvdec);
  }
  if (cuda_ == nullptr) return ways;
  const auto replays = [&](std::string name, std::size_t runners) {
    ways.push_back({std::move(name), 0, [=, this, &r](const Way& way) {
                      r.row(way.name).rates.push_back(ceiling(runners));
                    }});
  };
  replays("replay ceiling", 1);
  replays(fmt::format("replays of {} frames beside each other", depth + 2),
          static_cast<std::size_t>(depth) + 2);
  const auto preloaded = [&](const char* name, const std::vector<SourceFrame>* held, int deepness) {
    ways.push_back({fmt::format("frames {}, depth {}", name, deepness), preloaded_frames_,
                    [=, this, &r](const Way& way) {
                      PreloadedSource source(*held, way.frames);
                      time_run(r, way, source, deepness);
                    }});
  };
  preloaded("on the GPU", &device_, depth);
  preloaded("in pinned memory", &pinned_, depth);
  preloaded("in pinned memory", &pinned_, 1);
  ways.push_back(
      {"latency", preloaded_frames_, [this, &r](const Way& way) { time_latency(r, way.frames); }});
  return ways;
}

std::vector<VideoRuns::Way> VideoRuns::ways_to_trace(VideoSizeResults& r) {
  std::vector<Way> ways;
  if (cuda_ == nullptr) return ways;
  for (const int depth : {1, settings_.depth}) {
    for (const auto* held : {&device_, &pinned_}) {
      ways.push_back({fmt::format("frames {}, depth {}",
                                  held == &device_ ? "on the GPU" : "in pinned memory", depth),
                      preloaded_frames_, [=, this, &r](const Way& way) {
                        PreloadedSource source(*held, way.frames);
                        trace(r, way, source, depth);
                      }});
    }
  }
  const auto from_file = [&](const char* name, VideoDecoder decoder) {
    ways.push_back({fmt::format("from the file, {}, depth {}", name, settings_.depth),
                    r.frames * repeats_, [=, this, &r](const Way& way) {
                      trace(r, way, inputs(r.file, decoder, repeats_).source(), settings_.depth);
                    }});
  };
  from_file("CPU decoder", VideoDecoder::kCpu);
  if (r.nvdec) from_file("NVDEC", VideoDecoder::kNvdec);
  return ways;
}

}  // namespace rfseg::cli
