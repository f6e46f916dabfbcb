// Finds the real driver at run time. cuGetProcAddress_v2 is the one symbol that is looked up by the system;
// it knows all others by name and by the version of the signature that is wanted, so that a newer driver
// gives the functions that we mean.
#include <dlfcn.h>

#include "platform/cuda/driver.h"
#include "platform/linux/system.h"

namespace glebe::os::cuda {
namespace {

using GetSymbol = Result (*)(const char* symbol, void** function, int version, std::uint64_t flags,
                             SymbolStatus* status);

// The driver's function is what the entry works on: the call adds one jump.
template <class... Arguments>
Result call_driver(void* self, Arguments... arguments) noexcept {
  return reinterpret_cast<Result (*)(Arguments...)>(self)(arguments...);
}

template <class... Arguments>
void fill(Entry<Result(Arguments...)>& entry, void* function) noexcept {
  entry = {function, call_driver<Arguments...>};
}

struct Wanted {
  const char* symbol;
  int version;
};

// Asks for one symbol. nullptr: `loaded` says why.
void* find(LoadedDriver& loaded, GetSymbol get_symbol, Wanted wanted) noexcept {
  void* function = nullptr;
  SymbolStatus status = SymbolStatus::found;
  const Result result = get_symbol(wanted.symbol, &function, wanted.version, 0, &status);
  if (result == Result::stub_library) {
    loaded.support = Support::stub_library;
  } else if (function == nullptr || result != Result::success) {
    // A symbol that the driver does not know is a success without a function.
    loaded.support = Support::driver_too_old;
    loaded.missing_symbol = wanted.symbol;
  }
  loaded.result = result;
  return result == Result::success ? function : nullptr;
}

// Whether the whole table could be filled.
bool fill_table(LoadedDriver& loaded, GetSymbol get_symbol) noexcept {
  void* function = nullptr;
#define GPU_CALL(name, symbol, version, ...)               \
  function = find(loaded, get_symbol, {#symbol, version}); \
  if (function == nullptr) return false;                   \
  fill(loaded.driver.name, function);
#include "platform/cuda/driver.def"
#undef GPU_CALL
  return true;
}

Support support_of(Result result) noexcept {
  switch (result) {
    case Result::success:
      return Support::present;
    case Result::stub_library:
      return Support::stub_library;
    case Result::no_device:
      return Support::no_device;
    case Result::not_initialized:
    case Result::device_unavailable:
    case Result::system_not_ready:
      return Support::not_ready;
    default:
      return Support::failed;
  }
}

// Starts the driver and counts its devices. From then on the library stays: it may have threads and hooks.
void start(LoadedDriver& loaded) noexcept {
  loaded.result = loaded.driver.init(0);
  if (loaded.result == Result::success) loaded.result = loaded.driver.device_get_count(&loaded.device_count);
  loaded.support = support_of(loaded.result);
  if (loaded.support == Support::present && loaded.device_count == 0) loaded.support = Support::no_device;
}

// The version is asked for before the table, so that an old driver is called old and not incomplete. Whether
// the driver was started.
bool look_into(LoadedDriver& loaded, void* library) noexcept {
  const auto get_symbol = reinterpret_cast<GetSymbol>(::dlsym(library, "cuGetProcAddress_v2"));
  if (get_symbol == nullptr) {
    loaded.support = Support::driver_too_old;
    loaded.missing_symbol = "cuGetProcAddress_v2";
    return false;
  }
  void* get_version = find(loaded, get_symbol, {"cuDriverGetVersion", 2020});
  if (get_version == nullptr) return false;
  fill(loaded.driver.driver_get_version, get_version);
  loaded.result = loaded.driver.driver_get_version(&loaded.version);
  loaded.support = support_of(loaded.result);
  if (loaded.support != Support::present) return false;
  if (loaded.version < kOldestVersion) {
    loaded.support = Support::driver_too_old;
    return false;
  }
  if (!fill_table(loaded, get_symbol)) return false;
  start(loaded);
  return true;
}

}  // namespace

LoadedDriver load_driver(const char* library) noexcept {
  const ErrnoScope errno_scope;
  LoadedDriver loaded;
  void* handle = ::dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return loaded;
  const bool is_started = look_into(loaded, handle);
  if (loaded.support == Support::present) return loaded;
  loaded.driver = {};
  if (!is_started) ::dlclose(handle);
  return loaded;
}

void explain(const LoadedDriver& loaded, Text& text) noexcept {
  switch (loaded.support) {
    case Support::present:
      text.append("a GPU driver for CUDA ").append_unsigned(static_cast<unsigned>(loaded.version) / 1000);
      text.append(".").append_unsigned(static_cast<unsigned>(loaded.version) % 1000 / 10).append(" with ");
      text.append_unsigned(static_cast<unsigned>(loaded.device_count)).append(" device(s)");
      return;
    case Support::no_library:
      text.append("no GPU: the CUDA driver (libcuda.so.1) is not installed");
      return;
    case Support::stub_library:
      text.append("no GPU: the toolkit's stub of libcuda was loaded, not a driver");
      return;
    case Support::driver_too_old:
      text.append("no GPU: the CUDA driver is older than 12.0");
      if (loaded.missing_symbol != nullptr)
        text.append(" (it has no ").append(loaded.missing_symbol).append(")");
      return;
    case Support::no_device:
      text.append("no GPU: the CUDA driver sees no device");
      return;
    case Support::not_ready:
    case Support::failed:
      text.append("no GPU: the CUDA driver answered ").append(name_of(loaded.result)).append(" (");
      text.append_signed(static_cast<int>(loaded.result)).append(")");
      return;
  }
}

const char* symbol_of(Call call) noexcept {
  static constexpr const char* kSymbols[] = {
#define GPU_CALL(name, symbol, version, ...) #symbol,
#include "platform/cuda/driver.def"
#undef GPU_CALL
  };
  return kSymbols[static_cast<unsigned>(call)];
}

const char* name_of(Result result) noexcept {
  struct Name {
    Result result;
    const char* name;
  };
  static constexpr Name kNames[] = {
      {Result::success, "SUCCESS"},
      {Result::invalid_value, "INVALID_VALUE"},
      {Result::out_of_memory, "OUT_OF_MEMORY"},
      {Result::not_initialized, "NOT_INITIALIZED"},
      {Result::deinitialized, "DEINITIALIZED"},
      {Result::stub_library, "STUB_LIBRARY"},
      {Result::device_unavailable, "DEVICE_UNAVAILABLE"},
      {Result::no_device, "NO_DEVICE"},
      {Result::invalid_device, "INVALID_DEVICE"},
      {Result::invalid_image, "INVALID_IMAGE"},
      {Result::invalid_context, "INVALID_CONTEXT"},
      {Result::operating_system, "OPERATING_SYSTEM"},
      {Result::invalid_handle, "INVALID_HANDLE"},
      {Result::illegal_state, "ILLEGAL_STATE"},
      {Result::not_found, "NOT_FOUND"},
      {Result::not_ready, "NOT_READY"},
      {Result::illegal_address, "ILLEGAL_ADDRESS"},
      {Result::host_memory_already_registered, "HOST_MEMORY_ALREADY_REGISTERED"},
      {Result::host_memory_not_registered, "HOST_MEMORY_NOT_REGISTERED"},
      {Result::not_permitted, "NOT_PERMITTED"},
      {Result::not_supported, "NOT_SUPPORTED"},
      {Result::system_not_ready, "SYSTEM_NOT_READY"},
      {Result::stream_capture_unsupported, "STREAM_CAPTURE_UNSUPPORTED"},
      {Result::unknown, "UNKNOWN"},
  };
  for (const Name& entry : kNames) {
    if (entry.result == result) return entry.name;
  }
  return "(unnamed)";
}

}  // namespace glebe::os::cuda
