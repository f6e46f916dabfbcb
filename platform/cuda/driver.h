// The driver of a GPU as a table of functions (namespace glebe::os::cuda).
//
// A Driver is a value: for every entry point in driver.def a function and what it works on. Three things fill
// one: load_driver() with the real driver, EmulatedGpu (platform/emulated_gpu) with one over host memory, and
// decorators (recording.h, failing.h) that stand in front of another Driver. Upper layers call
// driver.mem_create(...) and cannot tell them apart. Nobody calls a cu* symbol directly, and nothing links
// the driver. A table does not own what its functions work on; it stays usable as long as that lives. The
// calls are as thread-safe as the driver's: all may be made from any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "platform/cuda/types.h"
#include "src/base/text.h"

namespace glebe::os::cuda {

template <class Signature>
struct Entry;

template <class... Arguments>
struct Entry<Result(Arguments...)> {
  void* self = nullptr;
  Result (*function)(void* self, Arguments... arguments) = nullptr;

  Result operator()(Arguments... arguments) const noexcept { return function(self, arguments...); }
};

struct Driver {
#define GPU_CALL(name, symbol, version, ...) Entry<__VA_ARGS__> name;
#include "platform/cuda/driver.def"
#undef GPU_CALL
};

// The entries by number, for what keeps something for each of them.
enum class Call : std::uint8_t {
#define GPU_CALL(name, symbol, version, ...) name,
#include "platform/cuda/driver.def"
#undef GPU_CALL
};
inline constexpr unsigned kCallCount = 0
#define GPU_CALL(name, symbol, version, ...) +1
#include "platform/cuda/driver.def"
#undef GPU_CALL
    ;
// The driver's symbol ("cuMemCreate").
[[nodiscard]] const char* symbol_of(Call call) noexcept;

// Whether there is a GPU, and if not, why: each asks for something else from whoever runs the machine.
enum class Support : std::uint8_t {
  present,
  no_library,      // the driver is not installed
  stub_library,    // the toolkit's library for linking was found in its place
  driver_too_old,  // older than CUDA 12.0, or a symbol is missing
  no_device,       // the driver runs and sees no GPU
  not_ready,       // there is one, but it cannot be used now
  failed,          // anything else that the driver answered
};

struct LoadedDriver {
  Support support = Support::no_library;
  Result result = Result::success;       // what the driver answered when it refused
  const char* missing_symbol = nullptr;  // with driver_too_old, where one is missing
  int version = 0;                       // of the driver: 1000 * major + 10 * minor; 0 when it did not tell
  int device_count = 0;
  Driver driver;  // usable and initialised if support is present, empty otherwise
};

inline constexpr int kOldestVersion = 12000;

// Loads the driver and initialises it (cuInit). Loads nothing where there is none. What was loaded stays
// until the process ends, because its threads run on. Calls dlopen, which calls malloc: not for the inside of
// an allocation. May be called again and from any thread; each call answers with a table of its own. Children
// of a process that called it cannot use the driver.
[[nodiscard]] LoadedDriver load_driver(const char* library = "libcuda.so.1") noexcept;

// Appends one sentence on what was found, for a message to the user.
void explain(const LoadedDriver& loaded, Text& text) noexcept;

}  // namespace glebe::os::cuda
