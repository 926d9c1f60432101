#include "output/text_painter.h"

#include <ft2build.h>
#include FT_FREETYPE_H

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "output/embedded_files.h"
#include "output/json_text.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

constexpr std::size_t kMaxCachedGlyphs = 4096;
constexpr uint32_t kReplacement = 0xfffd;

/// A rendered glyph: coverage 0..255, placed relative to the pen.
struct Glyph {
  int left = 0, top = 0;  ///< of the first row and column, pixels right of and above the pen
  int width = 0, height = 0;
  int advance = 0;  ///< 1/64 pixels
  std::vector<uint8_t> coverage;
};

[[noreturn]] void fail(const char* what) {
  throw Error(ErrorCode::kInternal, std::string("FreeType: cannot ") + what);
}

/// Takes one code point off `text`.
uint32_t next_code_point(std::string_view& text) {
  const std::size_t length = utf8_length(text);
  const auto byte = [&](std::size_t i) {
    return static_cast<uint32_t>(static_cast<uint8_t>(text[i]));
  };
  uint32_t code = kReplacement;
  if (length == 1) code = byte(0) < 0x20 ? ' ' : byte(0);
  if (length == 2) code = (byte(0) & 0x1f) << 6 | (byte(1) & 0x3f);
  if (length == 3) code = (byte(0) & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
  if (length == 4) {
    code =
        (byte(0) & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f);
  }
  text.remove_prefix(std::max<std::size_t>(length, 1));
  return code;
}

}  // namespace

struct TextPainter::State {
  FT_Library library = nullptr;
  FT_Face face = nullptr;
  int size = 0;
  int capital_height = 0, descent = 0;
  std::unordered_map<uint64_t, Glyph> glyphs;

  ~State() {
    if (face != nullptr) FT_Done_Face(face);
    if (library != nullptr) FT_Done_FreeType(library);
  }

  const Glyph& glyph(uint32_t code) {
    const uint64_t key = static_cast<uint64_t>(size) << 32 | code;
    if (const auto found = glyphs.find(key); found != glyphs.end()) return found->second;
    if (glyphs.size() >= kMaxCachedGlyphs) glyphs.clear();
    if (FT_Load_Char(face, code, FT_LOAD_RENDER | FT_LOAD_TARGET_LIGHT) != 0) fail("draw a glyph");
    const FT_GlyphSlot slot = face->glyph;
    const FT_Bitmap& bitmap = slot->bitmap;
    Glyph out;
    out.left = slot->bitmap_left;
    out.top = slot->bitmap_top;
    out.width = static_cast<int>(bitmap.width);
    out.height = static_cast<int>(bitmap.rows);
    out.advance = static_cast<int>(slot->advance.x);
    for (int y = 0; y < out.height; ++y) {
      const uint8_t* row = bitmap.buffer + static_cast<std::ptrdiff_t>(y) * bitmap.pitch;
      out.coverage.insert(out.coverage.end(), row, row + out.width);
    }
    return glyphs.emplace(key, std::move(out)).first->second;
  }
};

TextPainter& TextPainter::for_thread() {
  thread_local TextPainter painter;
  return painter;
}

TextPainter::TextPainter() : state_(std::make_unique<State>()) {
  const auto font = embedded_font();
  if (FT_Init_FreeType(&state_->library) != 0) fail("start");
  if (FT_New_Memory_Face(state_->library, font.data(), static_cast<FT_Long>(font.size()), 0,
                         &state_->face) != 0) {
    fail("read the embedded font");
  }
  set_size(16);
}

TextPainter::~TextPainter() = default;

void TextPainter::set_size(int pixels) {
  pixels = std::clamp(pixels, 4, 256);
  if (state_->size == pixels) return;
  if (FT_Set_Pixel_Sizes(state_->face, 0, static_cast<FT_UInt>(pixels)) != 0) fail("set a size");
  state_->size = pixels;
  state_->capital_height = state_->glyph('H').top;
  const Glyph& low = state_->glyph('g');
  state_->descent = low.height - low.top;
}

int TextPainter::width(std::string_view text) {
  int advance = 0;
  while (!text.empty()) advance += state_->glyph(next_code_point(text)).advance;
  return (advance + 63) / 64;
}

int TextPainter::ascent() const { return state_->capital_height; }
int TextPainter::descent() const { return state_->descent; }

void TextPainter::draw(Image& image, int x, int baseline, std::string_view text,
                       std::array<uint8_t, 3> color) {
  int pen = x * 64;
  while (!text.empty()) {
    const Glyph& glyph = state_->glyph(next_code_point(text));
    const int left = (pen + 32) / 64 + glyph.left, top = baseline - glyph.top;
    const int x0 = std::max(0, -left), x1 = std::min(glyph.width, image.width - left);
    const int y0 = std::max(0, -top), y1 = std::min(glyph.height, image.height - top);
    for (int gy = y0; gy < y1; ++gy) {
      const uint8_t* coverage = glyph.coverage.data() + static_cast<std::size_t>(gy) * glyph.width;
      uint8_t* row =
          image.pixels.data() + (static_cast<std::size_t>(top + gy) * image.width + left) * 3;
      for (int gx = x0; gx < x1; ++gx) {
        for (int c = 0; c < 3; ++c) {
          uint8_t& pixel = row[gx * 3 + c];
          const int alpha = coverage[gx];
          pixel = static_cast<uint8_t>((pixel * (255 - alpha) + color[c] * alpha + 127) / 255);
        }
      }
    }
    pen += glyph.advance;
  }
}

}  // namespace rfseg
