#include "cli/verbs/bench_kernels.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "engine/cuda/cuda_engine.h"
#include "pipeline/loaded_model.h"
#include "rfseg/error.h"

namespace rfseg::cli {
namespace {

struct Rates {
  double tflops = 0, gigabytes = 0;  ///< a second
  double of_peak = 0;
};

Rates rates_of(const StepTime& step, const DevicePeaks& peaks) {
  const double seconds = step.ms * 1e-3;
  Rates r;
  r.tflops = step.flops / seconds * 1e-12;
  r.gigabytes = step.bytes / seconds * 1e-9;
  r.of_peak = share_of_peak(step, peaks);
  return r;
}

std::string table(const std::vector<StepTime>& steps, const DevicePeaks& peaks) {
  std::string text = fmt::format(
      "  {:<26} {:<44} {:>5} {:>9} {:>9} {:>8} {:>8} {:>7} {:>11} {:>6}\n", "step", "shape",
      "times", "us each", "us all", "TFLOP/s", "GB/s", "of peak", "cuBLASLt us", "ratio");
  double sum = 0;
  for (const StepTime& step : steps) {
    const Rates r = rates_of(step, peaks);
    const double all = step.ms * step.count;
    sum += all;
    text += fmt::format("  {:<26} {:<44} {:>5} {:>9.2f} {:>9.1f} {:>8} {:>8.0f} {:>6.1f}%",
                        step.kind, step.shape, step.count, step.ms * 1e3, all * 1e3,
                        step.flops > 0 ? fmt::format("{:.1f}", r.tflops) : "", r.gigabytes,
                        100 * r.of_peak);
    if (std::isnan(step.cublaslt_ms)) {
      text += "\n";
    } else {
      text +=
          fmt::format(" {:>11.2f} {:>6.2f}\n", step.cublaslt_ms * 1e3, step.ms / step.cublaslt_ms);
    }
  }
  return text + fmt::format("  sum of the steps, one after the other: {:.3f} ms\n", sum);
}

nlohmann::json to_json(const std::vector<StepTime>& steps, const DevicePeaks& peaks) {
  nlohmann::json all = nlohmann::json::array();
  for (const StepTime& step : steps) {
    const Rates r = rates_of(step, peaks);
    nlohmann::json one = {{"kind", step.kind},  {"shape", step.shape},     {"count", step.count},
                          {"ms", step.ms},      {"flops", step.flops},     {"bytes", step.bytes},
                          {"tflops", r.tflops}, {"gb_per_s", r.gigabytes}, {"of_peak", r.of_peak}};
    if (!std::isnan(step.cublaslt_ms)) one["cublaslt_ms"] = step.cublaslt_ms;
    all.push_back(std::move(one));
  }
  return all;
}

}  // namespace

void bench_kernels(const std::string& model, const ModelOptions& options,
                   const std::vector<int>& batches, bool json) {
  LoadedModel loaded;
  load_model(model, options, loaded);
  auto* engine = dynamic_cast<CudaEngine*>(loaded.engine.get());
  if (engine == nullptr) {
    throw Error(ErrorCode::kDevice,
                fmt::format("bench --kernels: the model runs on the {}, and only a GPU's steps are "
                            "timed one by one; --device cuda asks for one",
                            loaded.info.device));
  }
  const DevicePeaks peaks = engine->peaks();
  nlohmann::json all = {
      {"model", loaded.info.variant},          {"device", engine->device_name()},
      {"kernels", engine->kernels()},          {"precision", engine->precision()},
      {"peak_flops_per_s", peaks.flops_per_s}, {"peak_bytes_per_s", peaks.bytes_per_s},
      {"batches", nlohmann::json::array()}};
  std::string text =
      fmt::format("{} on {}, {} kernels, {}; peak {:.0f} TFLOP/s, {:.0f} GB/s\n",
                  loaded.info.variant, engine->device_name(), engine->kernels(),
                  engine->precision(), peaks.flops_per_s * 1e-12, peaks.bytes_per_s * 1e-9);
  for (const int batch : batches) {
    const std::vector<StepTime> steps = engine->time_steps(batch);
    all["batches"].push_back({{"batch", batch},
                              {"launches", engine->launches(batch)},
                              {"steps", to_json(steps, peaks)}});
    text += fmt::format("batch {}, {} launches\n", batch, engine->launches(batch)) +
            table(steps, peaks);
  }
  std::fputs(json ? (all.dump() + "\n").c_str() : text.c_str(), stdout);
}

}  // namespace rfseg::cli
