#include "media/video_module.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <string>
#include <vector>

#include "core/log.h"
#include "rfseg/error.h"

#if defined(__SANITIZE_THREAD__)
// FFmpeg's libraries are not instrumented: their atomics are not seen, and every buffer that one of
// their threads hands to another looks like a race.
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_suppressions() {
  return "called_from_lib:libavutil.so\ncalled_from_lib:libavcodec.so\n"
         "race:libavutil.so\nrace:libavcodec.so\nrace:libx264.so\nrace:libx265.so\n"
         "race:libvpx.so\n";
}
#endif

namespace rfseg {
namespace {

namespace fs = std::filesystem;

#if RFSEG_VIDEO
constexpr const char* kModuleName = "rfseg_libav.so";
constexpr const char* kInstallHint =
    "; video needs FFmpeg 5.1's libraries (Debian 12: apt-get install libavformat59 libavcodec59 "
    "libswscale6)";

void on_module_log(int level, const char* message) {
  log_message(static_cast<LogLevel>(level), message);
}

/// Folders that hold this program and this library.
std::vector<fs::path> own_folders() {
  std::vector<fs::path> folders;
  std::error_code error;
  const auto add = [&](const fs::path& file) {
    fs::path folder = fs::canonical(file, error).parent_path();
    if (!error && !folder.empty()) folders.push_back(std::move(folder));
  };
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(&video_module), &info) != 0 && info.dli_fname != nullptr) {
    add(info.dli_fname);
  }
  add("/proc/self/exe");
  return folders;
}

std::vector<fs::path> candidates() {
  if (const char* forced = std::getenv("RFSEG_LIBAV_MODULE"); forced != nullptr && *forced != 0) {
    return {forced};
  }
  std::vector<fs::path> files;
  for (const fs::path& folder : own_folders()) {
    files.push_back(folder / kModuleName);
    files.push_back(folder / "rfseg" / kModuleName);
    const fs::path lib = folder.parent_path() / "lib";
    files.push_back(lib / "rfseg" / kModuleName);
    std::error_code error;
    for (fs::directory_iterator i(lib, error), end; !error && i != end; i.increment(error)) {
      files.push_back(i->path() / "rfseg" / kModuleName);
    }
  }
  return files;
}

const libav::Api* load() {
  static const libav::Host host = {.log = on_module_log};
  std::string reason = std::string(kModuleName) + " is not beside the program or in its lib/rfseg";
  for (const fs::path& file : candidates()) {
    std::error_code error;
    if (!fs::exists(file, error)) {
      if (std::getenv("RFSEG_LIBAV_MODULE") != nullptr) {
        reason = "RFSEG_LIBAV_MODULE=" + file.string() + ": no such file";
      }
      continue;
    }
    void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      const char* text = dlerror();
      reason = text != nullptr ? text : file.string();
      continue;
    }
    const auto entry = reinterpret_cast<libav::EntryPoint>(dlsym(library, libav::kEntryPoint));
    const libav::Api* api = entry == nullptr ? nullptr : entry(libav::kAbiVersion, &host);
    if (api != nullptr) {
      log_debug("video: " + file.string() + ", " + api->version());
      return api;  // never unloaded
    }
    dlclose(library);
    reason = file.string() + ": is not the module of this version of rfseg";
  }
  // Libraries that are there and find no room need no installing.
  for (const char* starved : {"failed to map segment", "annot allocate memory", "Too many open"}) {
    if (reason.find(starved) == std::string::npos) continue;
    throw Error(ErrorCode::kDevice, "cannot load the video module: " + reason);
  }
  throw Error(ErrorCode::kInput, "cannot load the video module: " + reason + kInstallHint);
}
#endif

}  // namespace

const libav::Api& video_module() {
#if RFSEG_VIDEO
  static std::mutex mutex;
  static const libav::Api* loaded = nullptr;
  const std::lock_guard lock(mutex);
  if (loaded == nullptr) loaded = load();
  return *loaded;
#else
  throw Error(ErrorCode::kInput,
              "this build of rfseg reads no video (it was configured with RFSEG_VIDEO=OFF)");
#endif
}

}  // namespace rfseg
