// One forward pass per line of standard input, so that a script can time several programs in turn:
//   forward_rounds MODEL INPUT.npy THREADS [reference]
// INPUT holds float32 [batch, 3, H, W] or [3, H, W]. Prints "ready LOAD_MS RSS_MB", then answers
//   run         one forward pass: "WALL_MS CPU_MS"
//   save DIR    writes boxes.npy, logits.npy and masks.npy of the last pass: "saved"
//   memory      "PEAK_RSS_MB ENGINE_MB"

#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>
#include <string>

#include "checkpoint/checkpoint.h"
#include "core/npy.h"
#include "engine/engine.h"
#include "rfseg/error.h"

namespace {

double cpu_ms() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) * 1e-6;
}

double wall_ms() {
  return std::chrono::duration<double, std::milli>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

/// VmHWM: unlike getrusage's ru_maxrss it does not start at the size of the process that forked us.
double peak_rss_mb() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stod(line.substr(6)) * 1024e-6;
  }
  return 0;
}

int serve(int argc, char** argv) {
  rfseg::EngineOptions options;
  options.threads = std::stoi(argv[3]);
  options.backend = argc > 4 && std::string(argv[4]) == "reference" ? rfseg::Backend::kReference
                                                                    : rfseg::Backend::kCpu;
  const double start = wall_ms();
  rfseg::Checkpoint checkpoint = rfseg::open_checkpoint(argv[1]);
  const auto engine = rfseg::create_engine(checkpoint.config, *checkpoint.weights, options);
  checkpoint.weights.reset();
  const double loaded = wall_ms();
  const rfseg::Tensor input = rfseg::read_npy(argv[2]);
  const int batch = input.shape.size() == 4 ? static_cast<int>(input.dim(0)) : 1;
  if (input.size() != int64_t{3} * batch * engine->config().height * engine->config().width) {
    std::fprintf(stderr, "the input does not fit the model's size\n");
    return 2;
  }
  std::printf("ready %.1f %.1f\n", loaded - start, peak_rss_mb());
  std::fflush(stdout);
  rfseg::EngineOutputs out;
  for (std::string line; std::getline(std::cin, line);) {
    if (line == "run") {
      const double wall = wall_ms(), cpu = cpu_ms();
      engine->forward(input.data.data(), batch, out);
      std::printf("%.4f %.4f\n", wall_ms() - wall, cpu_ms() - cpu);
    } else if (line.rfind("save ", 0) == 0) {
      const std::string folder = line.substr(5) + "/";
      rfseg::write_npy(folder + "boxes.npy", out.boxes.data.data(), out.boxes.shape);
      rfseg::write_npy(folder + "logits.npy", out.logits.data.data(), out.logits.shape);
      if (!out.masks.empty()) {
        rfseg::write_npy(folder + "masks.npy", out.masks.data.data(), out.masks.shape);
      }
      std::puts("saved");
    } else if (line == "memory") {
      std::printf("%.1f %.1f\n", peak_rss_mb(), static_cast<double>(engine->memory_bytes()) / 1e6);
    } else {
      break;
    }
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: forward_rounds MODEL INPUT.npy THREADS [reference]\n");
    return 2;
  }
  try {
    return serve(argc, argv);
  } catch (const rfseg::Error& error) {
    std::fprintf(stderr, "forward_rounds: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
