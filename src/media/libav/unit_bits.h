#pragma once

#include <cstddef>
#include <cstdint>

namespace rfseg::libav {

/// Bits of a NAL unit's payload: Rec. ITU-T H.264, 7.2 and 9.1; the same in H.265. Zeros after the
/// end.
class UnitBits {
 public:
  UnitBits(const uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  bool ended() const { return at_ > size_; }

  uint32_t bit() {
    if (left_ == 0) next_byte();
    return byte_ >> --left_ & 1;
  }
  uint32_t bits(int count) {
    uint32_t value = 0;
    for (int i = 0; i < count; ++i) value = value << 1 | bit();
    return value;
  }
  uint32_t ue() {
    int zeros = 0;
    while (zeros < 32 && !ended() && bit() == 0) ++zeros;
    return zeros < 32 ? (1u << zeros) - 1 + bits(zeros) : UINT32_MAX;
  }
  int64_t se() {
    const int64_t value = ue();
    return value % 2 != 0 ? value / 2 + 1 : -(value / 2);
  }

 private:
  void next_byte() {
    const bool is_emulation =
        at_ < size_ && at_ >= 2 && data_[at_] == 3 && data_[at_ - 1] == 0 && data_[at_ - 2] == 0;
    if (is_emulation) ++at_;
    byte_ = at_ < size_ ? data_[at_] : 0;
    ++at_;
    left_ = 8;
  }
  const uint8_t* data_;
  std::size_t size_, at_ = 0;
  uint32_t byte_ = 0;
  int left_ = 0;
};

}  // namespace rfseg::libav
