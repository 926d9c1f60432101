#include "engine/model_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "rfseg/error.h"

namespace rfseg {
namespace {

[[noreturn]] void bad_config(const std::string& what) {
  throw Error(ErrorCode::kModel, "model configuration: " + what);
}

void check_divides(const char* name, int divisor, const char* of, int value) {
  if (value % divisor != 0) {
    bad_config(fmt::format("{} {} does not divide {} {}", name, divisor, of, value));
  }
}

}  // namespace

void check_config(const ModelConfig& config) {
  const std::pair<const char*, int> positive[] = {{"height", config.height},
                                                  {"width", config.width},
                                                  {"patch", config.patch},
                                                  {"windows", config.windows},
                                                  {"pos_grid", config.pos_grid},
                                                  {"enc_dim", config.enc_dim},
                                                  {"enc_heads", config.enc_heads},
                                                  {"enc_layers", config.enc_layers},
                                                  {"dec_layers", config.dec_layers},
                                                  {"queries", config.queries},
                                                  {"dim", config.dim},
                                                  {"sa_heads", config.sa_heads},
                                                  {"ca_heads", config.ca_heads},
                                                  {"points", config.points},
                                                  {"ffn_dim", config.ffn_dim},
                                                  {"logits", config.logits}};
  for (const auto& [name, value] : positive) {
    if (value <= 0 || value > 1 << 20) {
      bad_config(fmt::format("{} is {}; it must be 1 to {}", name, value, 1 << 20));
    }
  }
  const int64_t step = int64_t{config.patch} * config.windows;
  if (config.height % step != 0 || config.width % step != 0) {
    bad_config(
        fmt::format("the input is {}x{}; both sides must be divisible by {} "
                    "(patch {} * windows {})",
                    config.height, config.width, step, config.patch, config.windows));
  }
  check_divides("enc_heads", config.enc_heads, "enc_dim", config.enc_dim);
  check_divides("sa_heads", config.sa_heads, "dim", config.dim);
  check_divides("ca_heads", config.ca_heads, "dim", config.dim);
  // The query position splits `dim` into pairs of sine and cosine for each of four coordinates.
  if (config.dim % 4 != 0) bad_config(fmt::format("dim {} is not divisible by 4", config.dim));
  if (config.taps.empty() || config.levels.empty()) bad_config("taps or levels are empty");
  for (std::size_t i = 0; i < config.taps.size(); ++i) {
    if (config.taps[i] <= (i == 0 ? 0 : config.taps[i - 1])) {
      bad_config("taps must be positive and ascend");
    }
  }
  if (config.taps.back() != config.enc_layers) {
    bad_config(fmt::format("the last tap is {}, but enc_layers is {}", config.taps.back(),
                           config.enc_layers));
  }
}

MapSize level_size(const ModelConfig& config, Level level) {
  const int rows = config.grid_rows(), cols = config.grid_cols();
  switch (level) {
    case Level::kP3:
      return {2 * rows, 2 * cols};
    case Level::kP5:
      return {(rows + 1) / 2, (cols + 1) / 2};
    case Level::kP4:
      break;
  }
  return {rows, cols};
}

bool attends_in_full(const ModelConfig& config, int block) {
  return std::find(config.taps.begin(), config.taps.end(), block) != config.taps.end();
}

}  // namespace rfseg
