#pragma once

#include <stdexcept>
#include <string>

#include "rfseg/export.h"

/// The public API of librfseg.
namespace rfseg {

/// What kind of thing went wrong. The values are the exit codes of the `rfseg` program.
enum class ErrorCode {
  kPartial = 1,     ///< some inputs failed, the rest was done
  kUsage = 2,       ///< an option or argument that is not accepted
  kModel = 3,       ///< the model file cannot be used
  kInput = 4,       ///< an input cannot be read or decoded
  kDevice = 5,      ///< the device is missing or cannot do it
  kOutput = 6,      ///< an output cannot be written
  kInternal = 70,   ///< a bug in rfseg
  kCancelled = 130  ///< the caller asked to stop
};

/// The one exception type of the library: a code, and a message that says what was wrong, where
/// (file, tensor, option) and what is accepted instead.
class RFSEG_API Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace rfseg
