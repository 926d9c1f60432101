#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "core/model_config.h"
#include "engine/engine.h"
#include "rfseg/model.h"
#include "rfseg/options.h"

namespace rfseg {

/// A checkpoint and the engine that runs it: what Model hides.
struct LoadedModel {
  ModelConfig config;
  ModelInfo info;
  std::unique_ptr<Engine> engine;
  std::mutex engine_mutex;  ///< an engine takes one call at a time
  double open_ms = 0;       ///< reading the directory and the configuration
  double pack_ms = 0;       ///< reading and packing the weights
};

/// Where `name` leads: a file as it is, else the downloaded weights of a variant name. Throws
/// Error(kModel) that says how to get them.
std::string resolve_model_path(const std::string& name);

/// What `--device`, `--precision` and `--backend` come to on this machine.
struct DeviceChoice {
  Backend backend = Backend::kCpu;
  int cuda_device = 0;
  Precision precision = Precision::kFp32;
};

/// "auto" takes the first GPU if there is a usable one and no other backend is asked for. Throws
/// Error(kDevice) where the device or precision is not to be had, Error(kUsage) for a name that is
/// no device and for a backend on the wrong device.
DeviceChoice choose_device(const ModelOptions& options);

/// The same for little work, which a GPU's start costs more than: "auto" takes one only where
/// `backend` or RFSEG_BACKEND asks for it.
DeviceChoice choose_device_on_request(ModelOptions options);

/// "cpu" or "cuda:N".
std::string device_name(const DeviceChoice& choice);
/// "fp32", "fp16" or "tf32".
const char* precision_name(Precision precision);

/// Fills `model` from the file. Errors as Model::load.
void load_model(const std::string& path, const ModelOptions& options, LoadedModel& model);

}  // namespace rfseg
