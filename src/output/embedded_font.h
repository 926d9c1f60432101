#pragma once

#include <cstdint>
#include <span>

namespace rfseg {

/// assets/fonts/DejaVuSans-Bold-subset.ttf, part of the program.
std::span<const uint8_t> embedded_font();

}  // namespace rfseg
