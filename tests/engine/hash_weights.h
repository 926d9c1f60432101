#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/model_config.h"
#include "core/weights.h"

// Test weights without a file: every value is a hash of (tensor name, element index), so that a
// network of any size can be rebuilt bit for bit here and in make_goldens.py, which gives the same
// values to an independent implementation in PyTorch.

namespace rfseg::testing {

/// Hash of a name and a seed that starts the sequence of its values.
uint64_t hash_name(const std::string& name, uint64_t seed);

/// Value i of the sequence: 64 well-mixed bits (splitmix64).
uint64_t hash_at(uint64_t start, uint64_t i);

/// mean + standard deviation * (roughly normal value, at most 3.47 deviations away), from integer
/// and exact float steps only.
void hash_fill(float* out, int64_t n, uint64_t start, double mean, double deviation);

/// A network input [batch, 3, height, width], standard normal; image b is that of seed + b.
Tensor hash_input(const ModelConfig& config, int batch, uint64_t seed);

/// Which weights, beside the configuration.
struct HashOptions {
  uint64_t seed = 1;
  uint64_t selection_seed = 1;  ///< of enc_out_class_embed, chosen so that no two top scores tie
  int stored_pos_grid = 0;      ///< side of the stored position table, 0 = config.pos_grid
  int groups = 13;              ///< training groups in the "file"
};

/// Every tensor of a checkpoint of `config`, in upstream's names and shapes, unused ones included,
/// with the scales that keep the activations of a random network in range.
class HashWeights : public WeightSource {
 public:
  explicit HashWeights(const ModelConfig& config, const HashOptions& options = {});

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  const TensorInfo* find(const std::string& name) const override;
  Tensor read(const std::string& name) const override;
  using WeightSource::read;
  const std::string& origin() const override { return origin_; }

  // Damage, for tests of what an engine does with it.
  void remove(const std::string& name);
  void reshape(const std::string& name, const Shape& shape);
  void set_dtype(const std::string& name, DType dtype);
  /// `read` of that tensor fails as the contract says for a tensor with a NaN.
  void poison(const std::string& name) { poisoned_.insert(name); }

 private:
  void add(const std::string& name, const Shape& shape);
  void linear(const std::string& key, int64_t out, int64_t in);
  void norm(const std::string& key, int64_t width);
  void conv_norm(const std::string& key, int64_t out, int64_t in, int64_t side);
  void list_decoder(const ModelConfig& config);
  void list_two_stage(const ModelConfig& config);
  void list_heads(const ModelConfig& config);
  void list_encoder(const ModelConfig& config);
  void list_projector(const ModelConfig& config);

  HashOptions options_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::size_t> index_;
  std::set<std::string> poisoned_;
  std::string origin_ = "hash weights";
};

}  // namespace rfseg::testing
