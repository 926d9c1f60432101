#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rfseg {

/// Appends `text` as a JSON string. UTF-8 stays as it is; bytes that are not UTF-8 (file names may
/// hold any) become the visible text \xNN, so that what is written is always valid JSON. With
/// `for_html`, characters that could end a script element or start markup are written as \uXXXX.
void append_json_string(std::string& out, std::string_view text, bool for_html = false);

/// Appends the shortest decimal that reads back to the same float32, as Python writes floats:
/// "0.5", "12.0", "1e-05". Throws Error(kInternal) for NaN and infinity, which JSON does not know.
void append_json_float(std::string& out, float value);
/// The same without ".0" on whole numbers and without exponents, for lists of coordinates.
void append_json_coordinate(std::string& out, float value);
void append_json_integer(std::string& out, int64_t value);

/// Length of the UTF-8 sequence that `text` starts with, or 0 if it starts with none (RFC 3629).
std::size_t utf8_length(std::string_view text);

}  // namespace rfseg
