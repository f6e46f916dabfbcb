// Writes down every call; see recording.h.
#include "platform/cuda/recording.h"

#include <type_traits>

#include "platform/process.h"

namespace glebe::os::cuda {
namespace {

constexpr std::size_t kLineBytes = 512;

// Small numbers are counts and handles, large ones are addresses.
void append_number(Text& text, unsigned long long value) noexcept {
  if (value >> 32 != 0) {
    text.append_hex(value);
  } else {
    text.append_unsigned(value);
  }
}

template <class Value>
void append_value(Text& text, Value value) noexcept {
  if constexpr (std::is_pointer_v<Value>) {
    text.append_address(reinterpret_cast<const void*>(value));
  } else if constexpr (std::is_enum_v<Value>) {
    text.append_signed(static_cast<long long>(value));
  } else if constexpr (std::is_signed_v<Value>) {
    text.append_signed(value);
  } else {
    append_number(text, value);
  }
}

// Whether the driver writes a value to where an argument of this type points. Not text, not memory of unknown
// length, and not void**, which is also a list of the parameters of a kernel.
template <class Argument>
constexpr bool is_answer() noexcept {
  using Target = std::remove_pointer_t<Argument>;
  if constexpr (!std::is_pointer_v<Argument> || std::is_const_v<Target> || std::is_same_v<Target, void*>) {
    return false;
  } else if constexpr (std::is_pointer_v<Target> || std::is_enum_v<Target>) {
    return true;
  } else if constexpr (std::is_integral_v<Target>) {
    return sizeof(Target) >= sizeof(int);
  } else {
    return false;
  }
}

template <class Argument>
void append_argument(Text& text, Argument argument, bool is_filled) noexcept {
  if constexpr (is_answer<Argument>()) {
    if (is_filled && argument != nullptr) {
      text.append("[");
      append_value(text, *argument);
      text.append("]");
      return;
    }
  }
  append_value(text, argument);
}

}  // namespace

template <Call kCall, auto kMember, class... Arguments>
struct RecordingCall<kCall, kMember, Result(Arguments...)> {
  static Result call(void* self, Arguments... arguments) noexcept {
    const auto& recording = *static_cast<RecordingDriver*>(self);
    const bool with_times = recording.options_.with_times;
    const std::uint64_t start_ns = with_times ? clock_fine_ns() : 0;
    const Result result = (recording.inner_.*kMember)(arguments...);
    const std::uint64_t duration_ns = with_times ? clock_fine_ns() - start_ns : 0;
    char line[kLineBytes];
    Text text(line);
    text.append(symbol_of(kCall)).append("(");
    [[maybe_unused]] const char* separator = "";
    ((text.append(separator), append_argument(text, arguments, result == Result::success), separator = ", "),
     ...);
    text.append(") = ").append(name_of(result));
    if (with_times) text.append(" ").append_unsigned(duration_ns).append(" ns");
    recording.options_.write(recording.options_.sink, text.view());
    return result;
  }
};

Driver RecordingDriver::driver() noexcept {
  Driver driver;
#define GPU_CALL(name, symbol, version, ...) \
  driver.name = {this, RecordingCall<Call::name, &Driver::name, __VA_ARGS__>::call};
#include "platform/cuda/driver.def"
#undef GPU_CALL
  return driver;
}

}  // namespace glebe::os::cuda
