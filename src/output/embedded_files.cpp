#include "output/embedded_files.h"

// The build defines the files' names and hashes; the assembler puts each file's bytes between two
// symbols.
#define RFSEG_EMBED(symbol, file) \
  __asm__(                        \
      ".pushsection .rodata\n"    \
      ".balign 16\n"              \
      ".global rfseg_" symbol     \
      "_begin\n"                  \
      ".hidden rfseg_" symbol     \
      "_begin\n"                  \
      "rfseg_" symbol             \
      "_begin:\n"                 \
      ".incbin \"" file           \
      "\"\n"                      \
      ".global rfseg_" symbol     \
      "_end\n"                    \
      ".hidden rfseg_" symbol     \
      "_end\n"                    \
      "rfseg_" symbol             \
      "_end:\n"                   \
      ".byte 0\n"                 \
      ".popsection\n")

RFSEG_EMBED("font", RFSEG_FONT_FILE);
RFSEG_EMBED("report_css", RFSEG_REPORT_CSS_FILE);
RFSEG_EMBED("report_js", RFSEG_REPORT_JS_FILE);

extern "C" {
extern const uint8_t rfseg_font_begin[], rfseg_font_end[];
extern const char rfseg_report_css_begin[], rfseg_report_css_end[];
extern const char rfseg_report_js_begin[], rfseg_report_js_end[];
}

namespace rfseg {

std::span<const uint8_t> embedded_font() { return {rfseg_font_begin, rfseg_font_end}; }
std::string_view embedded_report_css() { return {rfseg_report_css_begin, rfseg_report_css_end}; }
std::string_view embedded_report_js() { return {rfseg_report_js_begin, rfseg_report_js_end}; }
std::string_view embedded_report_css_sha256() { return RFSEG_REPORT_CSS_SHA256; }
std::string_view embedded_report_js_sha256() { return RFSEG_REPORT_JS_SHA256; }

}  // namespace rfseg
