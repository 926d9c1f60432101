#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace rfseg {

/// assets/fonts/DejaVuSans-Bold-subset.ttf.
std::span<const uint8_t> embedded_font();

/// The report page's style sheet and script, and the SHA-256 of each in hexadecimal.
std::string_view embedded_report_css();
std::string_view embedded_report_js();
std::string_view embedded_report_css_sha256();
std::string_view embedded_report_js_sha256();

}  // namespace rfseg
