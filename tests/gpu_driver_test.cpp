// The driver as a table: finding the real one, and the decorators. What would break: a machine without a GPU
// is told nothing, or something wrong, or the library calls into a driver that is too old for its signatures.
#include "platform/cuda/driver.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "gpu_test_paths.h"
#include "platform/cuda/failing.h"
#include "platform/cuda/recording.h"

#include "tests/catch.h"

using namespace glebe;
using namespace glebe::os::cuda;

namespace {

// Loads the fake driver as `kind`.
LoadedDriver load_fake(const char* kind) {
  ::setenv("GLEBE_FAKE_CUDA", kind, 1);
  const LoadedDriver loaded = load_driver(kFakeDriver);
  ::unsetenv("GLEBE_FAKE_CUDA");
  return loaded;
}

std::string explained(const LoadedDriver& loaded) {
  char buffer[200];
  Text text(buffer);
  explain(loaded, text);
  CHECK_FALSE(text.is_truncated());
  return text.c_str();
}

bool is_empty(const LoadedDriver& loaded) { return loaded.driver.mem_create.function == nullptr; }

void keep_line(void* sink, std::string_view line) {
  static_cast<std::vector<std::string>*>(sink)->emplace_back(line);
}

// A table with two calls: a reservation answers with an address, a release is refused.
Driver two_calls() {
  Driver driver;
  driver.mem_address_reserve = {nullptr, [](void*, DevicePointer* address, std::size_t, std::size_t,
                                            DevicePointer, unsigned long long) {
                                  *address = 0x7f0000200000;
                                  return Result::success;
                                }};
  driver.mem_release = {nullptr, [](void*, MemoryHandle) { return Result::invalid_value; }};
  return driver;
}

}  // namespace

TEST_CASE("X a GPU driver that is not installed is no GPU", "[gpu]") {
  const LoadedDriver loaded = load_driver("libcuda-that-nobody-has.so.1");
  CHECK(loaded.support == Support::no_library);
  CHECK(is_empty(loaded));
  CHECK(explained(loaded) == "no GPU: the CUDA driver (libcuda.so.1) is not installed");
}

TEST_CASE("X the toolkit's stub of the driver is no GPU", "[gpu]") {
  const LoadedDriver loaded = load_fake("stub");
  CHECK(loaded.support == Support::stub_library);
  CHECK(loaded.result == Result::stub_library);
  CHECK(is_empty(loaded));
  CHECK(explained(loaded) == "no GPU: the toolkit's stub of libcuda was loaded, not a driver");
  if (kToolkitStub[0] == '\0') {
    WARN("no toolkit here: its real stub was not tried");
    return;
  }
  CHECK(load_driver(kToolkitStub).support == Support::stub_library);
}

TEST_CASE("X a GPU driver that is too old is refused with the reason", "[gpu]") {
  const LoadedDriver old = load_fake("old");
  CHECK(old.support == Support::driver_too_old);
  CHECK(old.version == 11080);
  CHECK(is_empty(old));
  CHECK(explained(old) == "no GPU: the CUDA driver is older than 12.0");

  const LoadedDriver before_lookup = load_driver(kFakeDriverWithoutLookup);
  CHECK(before_lookup.support == Support::driver_too_old);
  CHECK(explained(before_lookup) ==
        "no GPU: the CUDA driver is older than 12.0 (it has no cuGetProcAddress_v2)");

  // cuGetProcAddress answers "success" for a symbol that it does not know.
  const LoadedDriver incomplete = load_fake("missing");
  CHECK(incomplete.support == Support::driver_too_old);
  CHECK(is_empty(incomplete));
  REQUIRE(incomplete.missing_symbol != nullptr);
  CHECK(std::string(incomplete.missing_symbol) == "cuMemMap");
}

TEST_CASE("X a GPU driver without a device, or not ready, is no GPU", "[gpu]") {
  CHECK(load_fake("no device").support == Support::no_device);
  CHECK(load_fake("none counted").support == Support::no_device);
  const LoadedDriver not_ready = load_fake("not ready");
  CHECK(not_ready.support == Support::not_ready);
  CHECK(explained(not_ready) == "no GPU: the CUDA driver answered SYSTEM_NOT_READY (802)");
  CHECK(load_fake("failed").support == Support::failed);
  CHECK(is_empty(not_ready));
}

TEST_CASE("X a GPU driver that was started stays loaded, one that was not goes", "[gpu]") {
  // A copy of its own for each kind, which nobody else has loaded.
  const auto is_loaded_after = [](const char* kind) {
    char name[] = "/tmp/glebe-fake-driver-XXXXXX";
    const int file = ::mkstemp(name);
    REQUIRE(file >= 0);
    ::close(file);
    std::filesystem::copy_file(kFakeDriver, name, std::filesystem::copy_options::overwrite_existing);
    ::setenv("GLEBE_FAKE_CUDA", kind, 1);
    CHECK(load_driver(name).support != Support::no_library);
    ::unsetenv("GLEBE_FAKE_CUDA");
    void* handle = ::dlopen(name, RTLD_NOW | RTLD_NOLOAD);
    if (handle != nullptr) ::dlclose(handle);
    std::filesystem::remove(name);
    return handle != nullptr;
  };
  // Whatever the driver answers to cuInit, its threads and hooks may be there by then.
  for (const char* kind : {"no device", "none counted", "not ready", "failed", "works"}) {
    INFO(kind);
    CHECK(is_loaded_after(kind));
  }
  for (const char* kind : {"old", "stub", "missing"}) {
    INFO(kind);
    CHECK_FALSE(is_loaded_after(kind));
  }
}

TEST_CASE("X a GPU driver that works fills the whole table", "[gpu]") {
  const LoadedDriver loaded = load_fake("works");
  REQUIRE(loaded.support == Support::present);
  CHECK(loaded.version == 13000);
  CHECK(loaded.device_count == 2);
  CHECK(explained(loaded) == "a GPU driver for CUDA 13.0 with 2 device(s)");
  unsigned filled = 0;
#define GPU_CALL(name, symbol, version, ...) filled += loaded.driver.name.function != nullptr ? 1 : 0;
#include "platform/cuda/driver.def"
#undef GPU_CALL
  CHECK(filled == kCallCount);
  CHECK(loaded.driver.mem_release(7) == Result::not_supported);
}

TEST_CASE("X each entry of the GPU table carries the symbol that it is", "[gpu]") {
  CHECK(std::string(symbol_of(Call::init)) == "cuInit");
  CHECK(std::string(symbol_of(Call::mem_set_access)) == "cuMemSetAccess");
  CHECK(std::string(symbol_of(Call::launch_kernel)) == "cuLaunchKernel");
  CHECK(std::string(name_of(static_cast<Result>(12345))) == "(unnamed)");
}

TEST_CASE("X a recording GPU driver writes each call with arguments, answers and result", "[gpu]") {
  std::vector<std::string> lines;
  RecordingDriver recording(two_calls(), {keep_line, &lines});
  const Driver driver = recording.driver();
  DevicePointer address = 0;
  CHECK(driver.mem_address_reserve(&address, 2097152, 0, 0, 0) == Result::success);
  CHECK(address == 0x7f0000200000);
  CHECK(driver.mem_release(9) == Result::invalid_value);
  REQUIRE(lines.size() == 2);
  CHECK(lines[0] == "cuMemAddressReserve([0x7f0000200000], 2097152, 0, 0, 0) = SUCCESS");
  CHECK(lines[1] == "cuMemRelease(9) = INVALID_VALUE");

  RecordingDriver timed(two_calls(), {keep_line, &lines, true});
  CHECK(timed.driver().mem_release(9) == Result::invalid_value);
  REQUIRE(lines.size() == 3);
  CHECK(lines[2].rfind("cuMemRelease(9) = INVALID_VALUE ", 0) == 0);
  CHECK(lines[2].substr(lines[2].size() - 3) == " ns");
}

TEST_CASE("X the n-th call of a failing GPU driver fails and does not reach the driver", "[gpu]") {
  std::vector<std::string> lines;
  RecordingDriver recording(two_calls(), {keep_line, &lines});
  FailingDriver failing(recording.driver());
  const Driver driver = failing.driver();
  DevicePointer address = 0;
  const auto reserve = [&] { return driver.mem_address_reserve(&address, 4096, 0, 0, 0); };
  CHECK(reserve() == Result::success);
  failing.fail({Call::mem_address_reserve, 2, 2, Result::not_permitted});
  CHECK(reserve() == Result::success);
  CHECK(reserve() == Result::not_permitted);
  CHECK(driver.mem_release(1) == Result::invalid_value);  // another entry has its own count
  CHECK(reserve() == Result::not_permitted);
  CHECK(reserve() == Result::success);
  CHECK(failing.calls(Call::mem_address_reserve) == 5);
  CHECK(failing.failures(Call::mem_address_reserve) == 2);
  CHECK(lines.size() == 4);
  failing.fail({Call::mem_release});
  failing.stop_failing();
  CHECK(driver.mem_release(1) == Result::invalid_value);
  CHECK(failing.failures(Call::mem_release) == 0);
}
