#pragma once

#include "core/model_config.h"

namespace rfseg::testing {

/// The smallest network that has every part: 2 windows a side, a full and a windowed block, masks.
inline ModelConfig tiny_config() {
  ModelConfig config;
  config.variant = "custom";
  config.height = config.width = 48;
  config.patch = 12;
  config.pos_grid = 4;
  config.windows = 2;
  config.enc_dim = 64;
  config.enc_heads = 1;
  config.enc_layers = 2;
  config.taps = {1, 2};
  config.dec_layers = 1;
  config.queries = 7;
  config.num_select = 7;
  config.dim = 32;
  config.sa_heads = 1;
  config.ca_heads = 2;
  config.points = 2;
  config.ffn_dim = 64;
  config.levels = {Level::kP4};
  config.seg = true;
  config.logits = 5;
  config.class_names = {"", "cat", "dog", "bird", "__background__"};
  return config;
}

}  // namespace rfseg::testing
