#include "cli/verbs/bench_video_results.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "cli/common.h"

namespace rfseg::cli {
namespace {

/// The slowest part that a way to run cannot be quicker than, in frames a second, and its name.
std::pair<double, std::string> bound(const VideoBenchFacts& facts, const VideoSizeResults& r,
                                     const std::string& name) {
  if (facts.cuda == nullptr) return {0, ""};
  const double ceiling = r.rate("replay ceiling");
  if (name.starts_with("frames on the GPU")) return {ceiling, "ceiling"};
  if (name.starts_with("frames in pinned memory")) {
    const double copies = 1e6 / r.copy;
    return copies < ceiling ? std::pair{copies, std::string("copy")}
                            : std::pair{ceiling, std::string("ceiling")};
  }
  for (const char* decoder : {"CPU", "NVDEC"}) {
    if (name.starts_with(fmt::format("from the file, {}", decoder))) {
      const double decoding = r.rate(fmt::format("decoding alone, {}", decoder));
      return decoding < ceiling ? std::pair{decoding, std::string("decoding")}
                                : std::pair{ceiling, std::string("ceiling")};
    }
  }
  return {0, ""};
}

nlohmann::json percentiles(const Distribution& d) {
  return {{"p50", d.p50}, {"p90", d.p90}, {"p99", d.p99}};
}

}  // namespace

double VideoRow::rate() const {
  std::vector<double> sorted = rates;
  std::sort(sorted.begin(), sorted.end());
  return quantile(sorted, 0.5);
}

VideoRow& VideoSizeResults::row(const std::string& name) {
  for (VideoRow& r : rows) {
    if (r.name == name) return r;
  }
  rows.push_back({name, {}, 0});
  return rows.back();
}

double VideoSizeResults::rate(const std::string& name) const {
  for (const VideoRow& r : rows) {
    if (r.name == name) return r.rate();
  }
  return 0;
}

nlohmann::json video_json(const VideoBenchFacts& facts,
                          const std::vector<VideoSizeResults>& results) {
  nlohmann::json json = runtime_json(facts.model->info, facts.threads);
  json["command"] = "bench --video";
  json["model"] = facts.model->info.variant;
  if (facts.cuda != nullptr) {
    json["gpu"] = {{"name", facts.cuda->device_name()},
                   {"kernels", facts.cuda->kernels()},
                   {"clock_step_ns", facts.clock_step_ns}};
  }
  json["depth"] = facts.depth;
  json["rounds"] = facts.rounds;
  json["sizes"] = nlohmann::json::array();
  for (const VideoSizeResults& r : results) {
    nlohmann::json size = {{"width", r.width},
                           {"height", r.height},
                           {"frames_of_clip", r.frames},
                           {"ways_compared", r.gated},
                           {"rows", nlohmann::json::array()},
                           {"traces", nlohmann::json::array()}};
    for (const VideoRow& row : r.rows) {
      const auto [limit, what] = bound(facts, r, row.name);
      nlohmann::json one = {{"name", row.name},
                            {"frames_per_s", row.rate()},
                            {"rounds", row.rates},
                            {"start_ms", row.start_ms}};
      if (limit > 0) one["of_slowest_part"] = {{"part", what}, {"share", row.rate() / limit}};
      size["rows"].push_back(std::move(one));
    }
    for (const VideoTrace& trace : r.traces) {
      size["traces"].push_back({{"name", trace.name},
                                {"gap_us", percentiles(trace.gaps_us)},
                                {"idle_share", trace.idle_share}});
    }
    if (facts.cuda != nullptr) {
      size["copy_us"] = r.copy;
      size["network_us"] = r.network;
      size["latency_us"] = percentiles(r.latency);
    }
    json["sizes"].push_back(std::move(size));
  }
  return json;
}

std::string video_table(const VideoBenchFacts& facts,
                        const std::vector<VideoSizeResults>& results) {
  const ModelInfo& info = facts.model->info;
  std::string text = fmt::format("{} on {}", info.variant, info.device);
  if (facts.cuda != nullptr) {
    text += fmt::format(" ({}, {} kernels, clock step {} ns)", facts.cuda->device_name(),
                        facts.cuda->kernels(), facts.clock_step_ns);
  }
  text += fmt::format(
      ", {}; medians of {} round(s), each without its first tenth; results on the host, as JSON "
      "lines in a file\n",
      info.precision, facts.rounds);
  for (const VideoSizeResults& r : results) {
    text +=
        fmt::format("\n{}x{}: {} frames, {} ways to run gave the bytes of one frame at a time\n",
                    r.width, r.height, r.frames, r.gated);
    text += fmt::format("{:<46} {:>10} {:>9} {:>9}  {}\n", "", "frames/s", "us/frame", "start ms",
                        "of the slowest part");
    for (const VideoRow& row : r.rows) {
      const auto [limit, what] = bound(facts, r, row.name);
      text += fmt::format(
          "{:<46} {:>10.1f} {:>9.1f} {:>9.0f}  {}\n", row.name, row.rate(), 1e6 / row.rate(),
          row.start_ms,
          limit > 0 ? fmt::format("{:.1f} % of {}", 100 * row.rate() / limit, what) : "");
    }
    if (facts.cuda == nullptr) continue;
    text += fmt::format(
        "copy of a frame {:.1f} us, network {:.1f} us; from pinned memory to run lengths at depth "
        "1: {:.1f} us p50, {:.1f} p90, {:.1f} p99 = network + copy + {:.1f}\n",
        r.copy, r.network, r.latency.p50, r.latency.p90, r.latency.p99,
        r.latency.p50 - r.network - r.copy);
    text += fmt::format("{:<46} {:>9} {:>9} {:>9} {:>8}\n", "GPU idle between frames, us", "p50",
                        "p90", "p99", "share");
    for (const VideoTrace& trace : r.traces) {
      text += fmt::format("{:<46} {:>9.2f} {:>9.2f} {:>9.2f} {:>6.1f} %\n", trace.name,
                          trace.gaps_us.p50, trace.gaps_us.p90, trace.gaps_us.p99,
                          100 * trace.idle_share);
    }
  }
  return text;
}

}  // namespace rfseg::cli
