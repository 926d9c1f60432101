#include "core/npy.h"

#include <fmt/format.h>

#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <string_view>

#include "core/files.h"
#include "core/half.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

static_assert(std::endian::native == std::endian::little, ".npy data is copied as it lies");

constexpr std::string_view kMagic = "\x93NUMPY";

struct Header {
  std::string descr;
  bool fortran = false;
  Shape shape;
  std::size_t data_offset = 0;
};

[[noreturn]] void fail(const std::string& name, const std::string& what) {
  throw Error(ErrorCode::kInput, fmt::format("{}: not a usable .npy file: {}", name, what));
}

// The header is a Python dictionary literal; only the three keys that NumPy writes are understood.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  Header parse() {
    Header header;
    bool has_descr = false, has_order = false, has_shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string key = quoted();
      expect(':');
      if (key == "descr") {
        header.descr = quoted();
        has_descr = true;
      } else if (key == "fortran_order") {
        header.fortran = boolean();
        has_order = true;
      } else if (key == "shape") {
        header.shape = tuple();
        has_shape = true;
      } else {
        fail(name_, fmt::format("unknown header key '{}'", key));
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    if (!has_descr || !has_order || !has_shape)
      fail(name_, "the header lacks descr, fortran_order or shape");
    return header;
  }

 private:
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool accept(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) fail(name_, fmt::format("'{}' expected in the header", c));
  }
  std::string quoted() {
    skip_space();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') fail(name_, "a quoted string expected in the header");
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) fail(name_, "an unterminated string in the header");
    std::string value(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return value;
  }
  bool boolean() {
    skip_space();
    for (const auto& [word, value] :
         {std::pair{std::string_view("True"), true}, {"False", false}}) {
      if (text_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return value;
      }
    }
    fail(name_, "True or False expected in the header");
  }
  Shape tuple() {
    Shape shape;
    expect('(');
    while (!accept(')')) {
      skip_space();
      int64_t value = 0;
      const auto [end, error] =
          std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
      if (error != std::errc() || value < 0) fail(name_, "a size expected in the header");
      at_ = static_cast<std::size_t>(end - text_.data());
      if (shape.size() == 32) fail(name_, "more than 32 dimensions");
      shape.push_back(value);
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return shape;
  }

  std::string_view text_;
  const std::string& name_;
  std::size_t at_ = 0;
};

Header parse_header(const uint8_t* data, std::size_t size, const std::string& name) {
  if (size < 10 || std::memcmp(data, kMagic.data(), kMagic.size()) != 0)
    fail(name, "the magic bytes are missing");
  const int major = data[6];
  if (major < 1 || major > 3) fail(name, fmt::format("format version {} (1 to 3 are read)", major));
  const std::size_t prefix = major == 1 ? 10 : 12;
  if (size < prefix) fail(name, "it is truncated");
  std::size_t length = static_cast<std::size_t>(data[8] | data[9] << 8);
  if (major > 1)
    length |= static_cast<std::size_t>(data[10]) << 16 | static_cast<std::size_t>(data[11]) << 24;
  if (length > size - prefix) fail(name, "it is truncated");
  Header header =
      HeaderParser({reinterpret_cast<const char*>(data) + prefix, length}, name).parse();
  header.data_offset = prefix + length;
  return header;
}

// Elements, with every product checked against what the file can hold.
std::size_t checked_count(const Header& header, std::size_t element, std::size_t size,
                          const std::string& name) {
  const std::size_t available = (size - header.data_offset) / element;
  std::size_t count = 1;
  bool zero = false;
  for (const int64_t n : header.shape) zero |= n == 0;
  if (zero) return 0;
  for (const int64_t n : header.shape) {
    if (static_cast<std::size_t>(n) > available / count) {
      fail(name,
           fmt::format("shape {} needs more data than the file has", to_string(header.shape)));
    }
    count *= static_cast<std::size_t>(n);
  }
  return count;
}

// Fortran order to C order.
template <class T>
void transpose(const Shape& shape, std::vector<T>& from, T* to) {
  std::vector<int64_t> index(shape.size(), 0);
  for (std::size_t i = 0; i < from.size(); ++i) {
    std::size_t target = 0;
    for (std::size_t d = 0; d < shape.size(); ++d) {
      target = target * static_cast<std::size_t>(shape[d]) + static_cast<std::size_t>(index[d]);
    }
    to[target] = from[i];
    for (std::size_t d = 0; d < shape.size() && ++index[d] == shape[d]; ++d) index[d] = 0;
  }
}

template <class From, class To, class Convert>
void copy_elements(const uint8_t* bytes, std::size_t count, const Header& header, To* out,
                   Convert convert) {
  const auto element = [&](std::size_t i) {
    From value;
    std::memcpy(&value, bytes + i * sizeof(From), sizeof(From));
    return convert(value);
  };
  if (!header.fortran || header.shape.size() < 2) {
    for (std::size_t i = 0; i < count; ++i) out[i] = element(i);
    return;
  }
  std::vector<To> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = element(i);
  transpose(header.shape, values, out);
}

template <class T>
void write_array(const std::string& path, const T* data, const Shape& shape, const char* descr) {
  std::string dims;
  for (const int64_t n : shape) dims += fmt::format("{}, ", n);
  if (shape.size() > 1) dims.resize(dims.size() - 2);
  std::string header =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", descr, dims);
  header.append((64 - (10 + header.size() + 1) % 64) % 64, ' ');
  header += '\n';
  const auto length = static_cast<uint16_t>(header.size());
  OutputFile file(path);
  file.write({"\x93NUMPY\x01\x00", 8});
  const char size[2] = {static_cast<char>(length & 0xff), static_cast<char>(length >> 8)};
  file.write({size, 2});
  file.write(header);
  file.write({reinterpret_cast<const char*>(data),
              static_cast<std::size_t>(element_count(shape)) * sizeof(T)});
  file.commit();
}

}  // namespace

Tensor parse_npy(const uint8_t* data, std::size_t size, const std::string& name) {
  const Header header = parse_header(data, size, name);
  const uint8_t* bytes = data + header.data_offset;
  const auto allocate = [&](std::size_t element) {
    const std::size_t count = checked_count(header, element, size, name);
    Tensor tensor;
    tensor.shape = header.shape;
    tensor.data.resize(count);
    return tensor;
  };
  if (header.descr == "<f4") {
    Tensor tensor = allocate(4);
    copy_elements<float>(bytes, tensor.data.size(), header, tensor.data.data(),
                         [](float v) { return v; });
    return tensor;
  }
  if (header.descr == "<f2") {
    Tensor tensor = allocate(2);
    copy_elements<uint16_t>(bytes, tensor.data.size(), header, tensor.data.data(), half_to_float);
    return tensor;
  }
  if (header.descr == "<f8") {
    Tensor tensor = allocate(8);
    copy_elements<double>(bytes, tensor.data.size(), header, tensor.data.data(),
                          [](double v) { return static_cast<float>(v); });
    return tensor;
  }
  fail(name, fmt::format("dtype '{}' (little-endian float16, float32 and float64 are read)",
                         header.descr));
}

Tensor read_npy(const std::string& path) {
  const std::vector<uint8_t> bytes = read_file(path, std::size_t{1} << 34, kMagic);
  return parse_npy(bytes.data(), bytes.size(), path);
}

IntArray read_npy_int(const std::string& path) {
  const std::vector<uint8_t> bytes = read_file(path, std::size_t{1} << 31, kMagic);
  const Header header = parse_header(bytes.data(), bytes.size(), path);
  const uint8_t* data = bytes.data() + header.data_offset;
  IntArray array;
  array.shape = header.shape;
  if (header.descr == "<i4") {
    array.data.resize(checked_count(header, 4, bytes.size(), path));
    copy_elements<int32_t>(data, array.data.size(), header, array.data.data(),
                           [](int32_t v) { return v; });
  } else if (header.descr == "<i8") {
    array.data.resize(checked_count(header, 8, bytes.size(), path));
    copy_elements<int64_t>(data, array.data.size(), header, array.data.data(), [&](int64_t v) {
      if (v < std::numeric_limits<int32_t>::min() || v > std::numeric_limits<int32_t>::max()) {
        fail(path, fmt::format("value {} does not fit 32 bits", v));
      }
      return static_cast<int32_t>(v);
    });
  } else {
    fail(path, fmt::format("dtype '{}' (little-endian int32 and int64 are read)", header.descr));
  }
  return array;
}

ByteArray read_npy_bytes(const std::string& path) {
  const std::vector<uint8_t> bytes = read_file(path, std::size_t{1} << 34, kMagic);
  const Header header = parse_header(bytes.data(), bytes.size(), path);
  if (header.descr != "|u1") fail(path, fmt::format("dtype '{}' (uint8 is read)", header.descr));
  ByteArray array;
  array.shape = header.shape;
  array.data.resize(checked_count(header, 1, bytes.size(), path));
  copy_elements<uint8_t>(bytes.data() + header.data_offset, array.data.size(), header,
                         array.data.data(), [](uint8_t v) { return v; });
  return array;
}

void write_npy(const std::string& path, const float* data, const Shape& shape) {
  write_array(path, data, shape, "<f4");
}

void write_npy(const std::string& path, const int32_t* data, const Shape& shape) {
  write_array(path, data, shape, "<i4");
}

void write_npy(const std::string& path, const uint8_t* data, const Shape& shape) {
  write_array(path, data, shape, "|u1");
}

void write_npy_half(const std::string& path, const float* data, const Shape& shape) {
  std::vector<uint16_t> halves(static_cast<std::size_t>(element_count(shape)));
  for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = float_to_half(data[i]);
  write_array(path, halves.data(), shape, "<f2");
}

}  // namespace rfseg
