// The C interface of include/glebe/device.h, the device with its streams and copies: checks pointers,
// converts types. State is what the handles point to.
#include <glebe/device.h>

#include "src/api/device_handles.h"
#include "src/base/bits.h"

namespace glebe::api {
namespace {

// Finds the table of functions and tells in `text` why there is none.
dev::Outcome find_driver(OwnDevice& device, const glebe_device_options& options, cuda::Driver* driver,
                         Text& text) noexcept {
  if (options.kind == glebe_device_real) {
    const cuda::LoadedDriver loaded = cuda::load_driver();
    *driver = loaded.driver;
    if (loaded.support == cuda::Support::present) return {};
    cuda::explain(loaded, text);
    return {dev::Status::unsupported, loaded.result};
  }
  os::EmulatedGpu::Options emulated;
  emulated.device_bytes = options.emulated_bytes;
  emulated.host_bytes = options.emulated_host_bytes;
  device.is_emulated = true;
  if (!device.emulated.open(emulated)) {
    text.append("the system has no memory or addresses for an emulated device of this size");
    return dev::Status::no_host_memory;
  }
  *driver = device.emulated.driver();
  return device.gpu.check(driver->init(0));
}

bool is_valid(const glebe_device_options& options) noexcept {
  constexpr std::uint64_t kGranule = 2 * kMiB;
  if (options.struct_bytes < sizeof options) return false;
  if (options.kind == glebe_device_real) return options.ordinal >= 0;
  return options.kind == glebe_device_emulated && options.emulated_bytes != 0 &&
         options.emulated_bytes % kGranule == 0 && options.emulated_host_bytes % kGranule == 0;
}

// A call of the driver in the device's context.
template <class Call>
glebe_device_result with_context(glebe_device* device, Call call) noexcept {
  dev::Gpu& gpu = own(device).gpu;
  if (gpu.is_lost()) return glebe_device_lost;
  const dev::CurrentContext current(gpu);
  const cuda::Result answer = call(gpu.driver());
  if (answer == cuda::Result::invalid_value) return glebe_device_bad_argument;
  if (answer == cuda::Result::invalid_handle) return glebe_device_bad_argument;
  return to_c(gpu.check(answer));
}

}  // namespace
}  // namespace glebe::api

using namespace glebe::api;

extern "C" {

// The numbers of parameters are those of the published interface.
// NOLINTBEGIN(readability-function-size)

const char* glebe_device_result_text(glebe_device_result result) {
  return describe(static_cast<dev::Status>(result));
}

glebe_device_result glebe_device_open(const glebe_device_options* options, glebe_device** device,
                                      char* message, size_t message_bytes) {
  char buffer[512];
  glebe::Text text(buffer);
  const glebe_device_options given = given_or_defaults(options);
  if (device == nullptr || !is_valid(given)) {
    text.append(
        "options: struct_bytes is sizeof(glebe_device_options), and the bytes of an emulated device are "
        "multiples of 2 MiB");
    copy_text(text, message, message_bytes);
    return glebe_device_bad_argument;
  }
  OwnDevice* const made = make_own<OwnDevice>();
  if (made == nullptr) return glebe_device_no_host_memory;
  cuda::Driver driver;
  dev::Outcome outcome = find_driver(*made, given, &driver, text);
  if (outcome.ok()) {
    outcome = made->gpu.open(driver, given.ordinal);
    if (!outcome.ok()) text.append("the device cannot be opened: ").append(describe(outcome.status));
  }
  copy_text(text, message, message_bytes);
  if (!outcome.ok()) {
    end_own(made);
    return to_c(outcome);
  }
  *device = reinterpret_cast<glebe_device*>(made);
  return glebe_device_ok;
}

void glebe_device_close(glebe_device* device) {
  if (device != nullptr) end_own(&own(device));
}

glebe_device_result glebe_device_get_info(glebe_device* device, glebe_device_info* info) {
  if (device == nullptr || info == nullptr) return glebe_device_bad_argument;
  dev::Gpu& gpu = own(device).gpu;
  *info = {};
  std::memcpy(info->name, gpu.facts().name, sizeof info->name);
  info->driver_version = gpu.facts().driver_version;
  info->is_emulated = own(device).is_emulated ? 1 : 0;
  info->total_bytes = gpu.facts().total_bytes;
  info->free_bytes = gpu.free_bytes();
  info->granule_bytes = gpu.facts().granule_bytes;
  return glebe_device_ok;
}

glebe_device_result glebe_device_write(glebe_device* device, uint64_t to, const void* from, size_t size) {
  if (device == nullptr || (from == nullptr && size != 0)) return glebe_device_bad_argument;
  if (size == 0) return glebe_device_ok;
  return with_context(device, [=](const cuda::Driver& driver) { return driver.memcpy_h2d(to, from, size); });
}

glebe_device_result glebe_device_read(glebe_device* device, void* to, uint64_t from, size_t size) {
  if (device == nullptr || (to == nullptr && size != 0)) return glebe_device_bad_argument;
  if (size == 0) return glebe_device_ok;
  return with_context(device, [=](const cuda::Driver& driver) { return driver.memcpy_d2h(to, from, size); });
}

glebe_device_result glebe_device_stream_open(glebe_device* device, void** stream) {
  if (device == nullptr || stream == nullptr) return glebe_device_bad_argument;
  cuda::Stream made = nullptr;
  const glebe_device_result result = with_context(device, [&made](const cuda::Driver& driver) {
    return driver.stream_create(&made, cuda::kStreamNonBlocking);
  });
  if (result == glebe_device_ok) *stream = made;
  return result;
}

glebe_device_result glebe_device_stream_synchronize(glebe_device* device, void* stream) {
  if (device == nullptr) return glebe_device_bad_argument;
  return with_context(
      device, [=](const cuda::Driver& driver) { return driver.stream_synchronize(to_stream(stream)); });
}

glebe_device_result glebe_device_stream_close(glebe_device* device, void* stream) {
  if (device == nullptr || stream == nullptr) return glebe_device_bad_argument;
  return with_context(device,
                      [=](const cuda::Driver& driver) { return driver.stream_destroy(to_stream(stream)); });
}

glebe_device_result glebe_device_queue_write(glebe_device* device, uint64_t to, const void* from, size_t size,
                                             void* stream) {
  if (device == nullptr || (from == nullptr && size != 0)) return glebe_device_bad_argument;
  if (size == 0) return glebe_device_ok;
  return with_context(device, [=](const cuda::Driver& driver) {
    return driver.memcpy_h2d_async(to, from, size, to_stream(stream));
  });
}

glebe_device_result glebe_device_queue_read(glebe_device* device, void* to, uint64_t from, size_t size,
                                            void* stream) {
  if (device == nullptr || (to == nullptr && size != 0)) return glebe_device_bad_argument;
  if (size == 0) return glebe_device_ok;
  return with_context(device, [=](const cuda::Driver& driver) {
    return driver.memcpy_d2h_async(to, from, size, to_stream(stream));
  });
}

glebe_device_result glebe_device_queue_fill(glebe_device* device, uint64_t to, uint8_t value, size_t size,
                                            void* stream) {
  if (device == nullptr) return glebe_device_bad_argument;
  if (size == 0) return glebe_device_ok;
  return with_context(device, [=](const cuda::Driver& driver) {
    return driver.memset_d8_async(to, value, size, to_stream(stream));
  });
}

// NOLINTEND(readability-function-size)

}  // extern "C"
