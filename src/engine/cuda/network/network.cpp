#include "engine/cuda/network/network.h"

#include "core/cuda/range.h"
#include "engine/cuda/network/pass.h"

namespace rfseg::cuda {

void Pass::run() {
  const auto named = [](const char* name, const auto& part) {
    const Range range(name);
    part();
  };
  named("network: encoder", [&] { encode(); });
  named("network: projector", [&] {
    int first = 0;
    for (std::size_t i = 0; i < c_.levels.size(); ++i) first += project(static_cast<int>(i), first);
  });
  const bool split = lanes_.side != lanes_.main;
  if (split) {
    main_.record(lanes_.fork);
    side_.wait(lanes_.fork);
  }
  Lane& aside = split ? side_ : main_;
  named("network: values", [&] { project_values(aside); });
  if (split) aside.record(lanes_.values);
  if (c_.seg) named("network: mask features", [&] { make_spatial(aside); });
  if (split) aside.record(lanes_.spatial);

  named("network: selection", [&] { select_queries(); });
  if (split) main_.wait(lanes_.values);
  named("network: decoder", [&] { decode(); });
  if (split) {
    main_.record(lanes_.decoded);
    side_.wait(lanes_.decoded);
  }
  named("network: heads", [&] { heads(aside); });
  if (split) aside.record(lanes_.heads);
  if (c_.seg) {
    named("network: mask queries", [&] { describe_masks(); });
    if (split) main_.join(lanes_.spatial);
    named("network: masks", [&] { predict_masks(); });
  }
  if (split) main_.wait(lanes_.heads);
}

void run_network(const ModelConfig& config, const Proposals& proposals, const Weights& weights,
                 const Buffers& buffers, Math math, int batch, bool forced, const Lanes& lanes,
                 const Probe& probe) {
  Pass(config, proposals, weights, buffers, math, batch, forced, lanes, probe).run();
}

}  // namespace rfseg::cuda
