// Runs a libFuzzer-style target on a folder of seeds and on a fixed number of mutations of them, so
// that every build fuzzes a little and the same way. Usage: fuzz_NAME [--runs N] [--seed S]
// --seeds DIR, or fuzz_NAME FILE... to repeat single inputs. A crash leaves the input in
// fuzz-crash.bin of the working directory.

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

const Bytes* g_current = nullptr;

void save_current() {
  if (g_current == nullptr) return;
  if (std::FILE* file = std::fopen("fuzz-crash.bin", "wb")) {
    std::fwrite(g_current->data(), 1, g_current->size(), file);
    std::fclose(file);
  }
}

void on_signal(int signal_number) {
  save_current();
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

Bytes read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

void run(const Bytes& input) {
  g_current = &input;
  LLVMFuzzerTestOneInput(input.data(), input.size());
  g_current = nullptr;
}

// One to eight edits: bits, bytes, integers at the edges of their types, cuts, copies, splices.
Bytes mutate(const std::vector<Bytes>& seeds, std::mt19937_64& random) {
  const auto below = [&](std::size_t n) {
    return n == 0 ? 0 : static_cast<std::size_t>(random() % n);
  };
  static constexpr uint64_t kEdges[] = {0,
                                        1,
                                        0x7f,
                                        0x80,
                                        0xff,
                                        0x7fff,
                                        0x8000,
                                        0xffff,
                                        0x7fffffff,
                                        0x80000000,
                                        0xffffffff,
                                        0x7fffffffffffffff,
                                        0x8000000000000000,
                                        0xffffffffffffffff};
  Bytes bytes = seeds[below(seeds.size())];
  for (std::size_t edits = 1 + below(8); edits > 0; --edits) {
    const std::size_t at = below(bytes.size());
    switch (below(8)) {
      case 0:
        if (!bytes.empty()) bytes[at] = static_cast<uint8_t>(bytes[at] ^ (1u << below(8)));
        break;
      case 1:
        if (!bytes.empty()) bytes[at] = static_cast<uint8_t>(random());
        break;
      case 2:
      case 3: {
        const std::size_t width = std::size_t{1} << below(4);
        const uint64_t value = kEdges[below(std::size(kEdges))];
        if (bytes.size() >= width)
          std::memcpy(bytes.data() + below(bytes.size() - width + 1), &value, width);
        break;
      }
      case 4:
        bytes.resize(at);
        break;
      case 5:
        if (!bytes.empty()) {
          const std::size_t length = std::min<std::size_t>(1 + below(16), bytes.size() - at);
          bytes.erase(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                      bytes.begin() + static_cast<std::ptrdiff_t>(at + length));
        }
        break;
      case 6: {
        const std::size_t length = 1 + below(16);
        bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), length,
                     static_cast<uint8_t>(random()));
        break;
      }
      default: {
        const Bytes& other = seeds[below(seeds.size())];
        const std::size_t cut = below(other.size());
        bytes.resize(at);
        bytes.insert(bytes.end(), other.begin() + static_cast<std::ptrdiff_t>(cut), other.end());
      }
    }
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t runs = 1000, seed = 1;
  std::string folder;
  std::vector<std::string> files;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool has_value = i + 1 < argc;
    if (argument == "--runs" && has_value) {
      runs = std::stoull(argv[++i]);
    } else if (argument == "--seed" && has_value) {
      seed = std::stoull(argv[++i]);
    } else if (argument == "--seeds" && has_value) {
      folder = argv[++i];
    } else {
      files.push_back(argument);
    }
  }
  for (const int number : {SIGSEGV, SIGABRT, SIGFPE, SIGBUS}) signal(number, on_signal);
  for (const std::string& file : files) run(read(file));
  if (!files.empty()) return 0;

  std::vector<std::filesystem::path> paths;
  if (!folder.empty()) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      if (entry.is_regular_file()) paths.push_back(entry.path());
    }
  }
  std::sort(paths.begin(), paths.end());
  if (paths.empty()) {
    std::fprintf(stderr, "no seeds in '%s'\n", folder.c_str());
    return 2;
  }
  std::vector<Bytes> seeds;
  for (const auto& path : paths) seeds.push_back(read(path));
  std::printf("%zu seeds, %llu mutations, random seed %llu\n", seeds.size(),
              static_cast<unsigned long long>(runs), static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  for (const Bytes& bytes : seeds) run(bytes);
  std::mt19937_64 random(seed);
  for (uint64_t i = 0; i < runs; ++i) run(mutate(seeds, random));
  return 0;
}
