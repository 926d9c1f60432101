#pragma once

#include "media/libav/libav_api.h"

namespace rfseg {

/// The functions of rfseg_libav.so, loaded at the first call and kept. It is looked for beside the
/// program and beside the library that holds this code, in their rfseg/, ../lib/rfseg/ and
/// ../lib/*/rfseg/, unless the environment's RFSEG_LIBAV_MODULE names it. Throws Error(kInput) that
/// says what to install. Thread-safe.
const libav::Api& video_module();

}  // namespace rfseg
