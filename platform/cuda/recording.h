// A driver that writes down every call, in front of any other (namespace glebe::os::cuda).
//
// One line per call, when it has returned: the driver's symbol, the arguments, the result, and on demand how
// long it took. Where an argument points to something that the driver filled in (a handle, an address, a
// number), the value stands in brackets. Example:
//     cuMemCreate([1], 2097152, 0x7ffd5ce0, 0) = SUCCESS
// Thread-safe if the sink is: lines of several threads come in the order in which their calls ended.
#pragma once

#include <string_view>

#include "platform/cuda/driver.h"

namespace glebe::os::cuda {

template <Call kCall, auto kMember, class Signature>
struct RecordingCall;

class RecordingDriver {
 public:
  // Gets a line without its end; called with no lock held, by the thread that called.
  using Write = void (*)(void* sink, std::string_view line);
  struct Options {
    Write write;
    void* sink = nullptr;
    bool with_times = false;  // appends the nanoseconds that the driver took
  };

  // `inner` is copied; what it works on, and this object, outlive every use of driver().
  RecordingDriver(const Driver& inner, const Options& options) noexcept : inner_(inner), options_(options) {}
  RecordingDriver(const RecordingDriver&) = delete;
  RecordingDriver& operator=(const RecordingDriver&) = delete;

  [[nodiscard]] Driver driver() noexcept;

 private:
  template <Call kCall, auto kMember, class Signature>
  friend struct RecordingCall;

  Driver inner_;
  Options options_;
};

}  // namespace glebe::os::cuda
