#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>

#include "rfseg/image.h"

namespace rfseg {

/// Draws one line of text with the embedded font. One a thread: see `for_thread`.
class TextPainter {
 public:
  /// The calling thread's painter, made on first use. Throws Error(kInternal) if FreeType fails.
  static TextPainter& for_thread();
  TextPainter();
  ~TextPainter();

  /// Height of the em square in pixels, 4..256, for what follows.
  void set_size(int pixels);
  /// Advance of the whole line, pixels. Bytes that are not UTF-8 count as U+FFFD.
  int width(std::string_view text);
  int ascent() const;   ///< of a capital letter, pixels above the baseline
  int descent() const;  ///< pixels below the baseline
  /// Pixels outside the picture are left out.
  void draw(Image& image, int x, int baseline, std::string_view text, std::array<uint8_t, 3> color);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace rfseg
