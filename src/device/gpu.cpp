// What a GPU is asked when it is opened, and what its answers mean. See gpu.h.
#include "src/device/gpu.h"

namespace glebe::device {
namespace {

// Errors after which the context answers nothing else: the program's kernels did it, or the hardware. (701, a
// launch that asks for too much, is none: that launch did not happen.)
constexpr bool is_sticky(cuda::Result answer) noexcept {
  switch (static_cast<int>(answer)) {
    case 4:    // the driver is shutting down
    case 214:  // uncorrectable memory error
    case 220:  // uncorrectable link error
    case 226:  // error contained to this process
    case 700:  // illegal address
    case 702:  // launch timed out
    case 709:  // context destroyed
    case 710:  // device-side assertion
    case 714:  // stack error of the hardware
    case 715:  // illegal instruction
    case 716:  // misaligned address
    case 717:  // wrong address space
    case 718:  // invalid program counter
    case 719:  // launch failed
    case 721:
      return true;  // tensor memory leak
    default:
      return false;
  }
}

}  // namespace

const char* describe(Status status) noexcept {
  switch (status) {
    case Status::ok:
      return "done";
    case Status::bad_argument:
      return "bad argument";
    case Status::out_of_memory:
      return "out of device memory";
    case Status::over_budget:
      return "over the budget";
    case Status::out_of_addresses:
      return "out of device addresses";
    case Status::no_host_memory:
      return "no host memory for tables";
    case Status::not_owned:
      return "no block starts there";
    case Status::double_free:
      return "freed twice";
    case Status::in_use:
      return "in use";
    case Status::not_ready:
      return "not ready";
    case Status::cancelled:
      return "cancelled";
    case Status::timed_out:
      return "deadline passed";
    case Status::corrupt:
      return "contents are corrupt";
    case Status::io_error:
      return "page file cannot be read or written";
    case Status::device_lost:
      return "device lost";
    case Status::unsupported:
      return "not supported by this device";
    case Status::failed:
      return "the driver failed";
  }
  return "unknown";
}

Outcome Gpu::check(cuda::Result answer) noexcept {
  switch (answer) {
    case cuda::Result::success:
      return {};
    case cuda::Result::out_of_memory:
      return {Status::out_of_memory, answer};
    case cuda::Result::not_ready:
      return {Status::not_ready, answer};
    case cuda::Result::not_supported:
    case cuda::Result::not_permitted:
      return {Status::unsupported, answer};
    default:
      break;
  }
  if (!is_sticky(answer)) return {Status::failed, answer};
  is_lost_.store(true, std::memory_order_relaxed);
  return {Status::device_lost, answer};
}

Outcome Gpu::open(const cuda::Driver& driver, int ordinal) noexcept {
  close();
  driver_ = driver;
  int count = 0;
  Outcome outcome = check(driver_.device_get_count(&count));
  if (!outcome.ok()) return outcome;
  if (ordinal < 0 || ordinal >= count) return Status::bad_argument;
  outcome = check(driver_.device_get(&device_, ordinal));
  if (!outcome.ok()) return outcome;
  outcome = check(driver_.primary_ctx_retain(&context_, device_));
  if (!outcome.ok()) {
    context_ = nullptr;
    return outcome;
  }
  outcome = ask_facts();
  if (!outcome.ok()) close();
  return outcome;
}

Outcome Gpu::ask_facts() noexcept {
  const CurrentContext current(*this);
  const auto attribute = [this](cuda::DeviceAttribute which) {
    int value = 0;
    return driver_.device_get_attribute(&value, which, device_) == cuda::Result::success ? value : 0;
  };
  if (attribute(cuda::DeviceAttribute::virtual_memory_management_supported) == 0) return Status::unsupported;
  facts_ = {};
  std::size_t total_bytes = 0;
  Outcome outcome = check(driver_.device_total_mem(&total_bytes, device_));
  if (!outcome.ok()) return outcome;
  facts_.total_bytes = total_bytes;
  const cuda::AllocationProperties on_device = properties(cuda::LocationType::device);
  outcome =
      check(driver_.mem_get_granularity(&facts_.granule_bytes, &on_device, cuda::Granularity::recommended));
  if (!outcome.ok()) return outcome;
  static_cast<void>(driver_.driver_get_version(&facts_.driver_version));
  static_cast<void>(driver_.device_get_name(facts_.name, sizeof facts_.name, device_));
  const int node = attribute(cuda::DeviceAttribute::host_numa_id);
  facts_.host_node = node > 0 ? node : 0;
  facts_.has_write_value = attribute(cuda::DeviceAttribute::can_use_64_bit_stream_mem_ops) != 0;
  facts_.has_sparse_arrays = attribute(cuda::DeviceAttribute::sparse_cuda_array_supported) != 0;
  facts_.has_shareable_handles =
      attribute(cuda::DeviceAttribute::handle_type_posix_file_descriptor_supported) != 0;
  if (attribute(cuda::DeviceAttribute::host_numa_virtual_memory_management_supported) != 0) {
    const cuda::AllocationProperties on_host = properties(cuda::LocationType::host_numa);
    std::size_t granule = 0;
    if (driver_.mem_get_granularity(&granule, &on_host, cuda::Granularity::recommended) ==
        cuda::Result::success) {
      facts_.host_granule_bytes = granule;
    }
  }
  return {};
}

void Gpu::close() noexcept {
  if (context_ == nullptr) return;
  static_cast<void>(driver_.primary_ctx_release(device_));
  context_ = nullptr;
  is_lost_.store(false, std::memory_order_relaxed);
}

Outcome Gpu::check_not_captured(cuda::Stream stream) noexcept {
  auto status = cuda::CaptureStatus::none;
  const cuda::Result answer = driver_.stream_is_capturing(stream, &status);
  if (is_of_capture(answer)) return {Status::unsupported, answer};
  const Outcome outcome = check(answer);
  if (!outcome.ok()) return outcome;
  return status == cuda::CaptureStatus::none ? Outcome() : Outcome(Status::unsupported);
}

cuda::AllocationProperties Gpu::properties(cuda::LocationType location) const noexcept {
  cuda::AllocationProperties wanted = {};
  wanted.type = cuda::AllocationType::pinned;
  wanted.location = {location, location == cuda::LocationType::device ? device_ : facts_.host_node};
  return wanted;
}

cuda::AccessDescription Gpu::device_access() const noexcept {
  return {{cuda::LocationType::device, device_}, cuda::kAccessReadWrite};
}

std::uint64_t Gpu::free_bytes() noexcept {
  const CurrentContext current(*this);
  std::size_t free_bytes = 0, total_bytes = 0;
  return check(driver_.mem_get_info(&free_bytes, &total_bytes)).ok() ? free_bytes : 0;
}

CurrentContext::CurrentContext(const Gpu& gpu) noexcept : gpu_(gpu) {
  const cuda::Driver& driver = gpu_.driver();
  // Who cannot be asked what it has keeps it.
  if (driver.ctx_get_current(&before_) == cuda::Result::success && before_ != gpu_.context()) {
    has_set_context_ = driver.ctx_set_current(gpu_.context()) == cuda::Result::success;
  }
  has_set_mode_ = driver.thread_exchange_capture_mode(&mode_) == cuda::Result::success;
}

CurrentContext::~CurrentContext() {
  if (has_set_mode_) static_cast<void>(gpu_.driver().thread_exchange_capture_mode(&mode_));
  if (has_set_context_) static_cast<void>(gpu_.driver().ctx_set_current(before_));
}

}  // namespace glebe::device
