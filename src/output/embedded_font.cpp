#include "output/embedded_font.h"

// The build defines RFSEG_FONT_FILE; the assembler puts the file's bytes between two symbols.
__asm__(
    ".pushsection .rodata\n"
    ".balign 16\n"
    ".global rfseg_embedded_font_begin\n"
    ".hidden rfseg_embedded_font_begin\n"
    "rfseg_embedded_font_begin:\n"
    ".incbin \"" RFSEG_FONT_FILE
    "\"\n"
    ".global rfseg_embedded_font_end\n"
    ".hidden rfseg_embedded_font_end\n"
    "rfseg_embedded_font_end:\n"
    ".byte 0\n"
    ".popsection\n");

extern "C" const uint8_t rfseg_embedded_font_begin[];
extern "C" const uint8_t rfseg_embedded_font_end[];

namespace rfseg {

std::span<const uint8_t> embedded_font() {
  return {rfseg_embedded_font_begin, rfseg_embedded_font_end};
}

}  // namespace rfseg
