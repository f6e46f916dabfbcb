// The emulated driver as a whole: open, close, the table, devices and contexts; see machine.h.
#include "platform/emulated_gpu/machine.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <new>

#include "platform/vm.h"

namespace glebe::os::emulated {

using cuda::Call;
using cuda::Result;

namespace {

constexpr std::uint32_t kHostRangesMax = 1u << 16;
constexpr std::uint32_t kModulesMax = 1024;
constexpr std::uint32_t kPoolsMax = 1024;
constexpr std::uint32_t kPoolBlocksMax = 1u << 14;
constexpr std::uint32_t kArraysMax = 4096;
constexpr std::size_t kThreadsMax = 4096;  // with a current context, at once or one after the other
constexpr int kVersion = 13000;            // of the driver that is emulated

std::uint64_t kernel_thread_id() noexcept { return static_cast<std::uint64_t>(::syscall(SYS_gettid)); }

// What a call needs: the entries of driver.def stand in groups.
enum class Needs : std::uint8_t { nothing, driver, no_error, context };
constexpr Needs needs_of(Call call) noexcept {
  if (call <= Call::driver_get_version) return Needs::nothing;
  if (call <= Call::ctx_get_current) return Needs::driver;
  const bool is_virtual_memory = call >= Call::mem_address_reserve && call <= Call::mem_import_handle;
  return is_virtual_memory ? Needs::no_error : Needs::context;
}

// Calls that the driver refuses while a stream is being captured (documentation of
// cuThreadExchangeStreamCaptureMode, which names the first and leaves the list open).
constexpr bool is_unsafe_in_capture(Call call) noexcept {
  switch (call) {
    case Call::mem_alloc:
    case Call::mem_free:
    case Call::mem_host_alloc:
    case Call::mem_free_host:
    case Call::event_query:
    case Call::ctx_synchronize:
      return true;
    default:
      return false;
  }
}

}  // namespace

// One entry of the table: asks enter(), then calls the member function.
template <Call kCall, auto kMember, class... Arguments>
struct MachineCall<kCall, kMember, Result(Arguments...)> {
  static Result call(void* self, Arguments... arguments) noexcept {
    auto& machine = *static_cast<Machine*>(self);
    const Result refused = machine.enter(kCall);
    return refused != Result::success ? refused : (machine.*kMember)(arguments...);
  }
};

cuda::Driver Machine::driver() noexcept {
  using namespace cuda;
  Driver driver;
#define GPU_CALL(name, symbol, version, ...) \
  driver.name = {this, MachineCall<Call::name, &Machine::name, __VA_ARGS__>::call};
#include "platform/cuda/driver.def"
#undef GPU_CALL
  return driver;
}

bool Machine::open(const Options& options) noexcept {
  options_ = options;
  if (options.kernels.size() > EmulatedGpu::kKernelsMax) return false;
  if (!physical_.open({options.device_bytes, options.host_bytes, options.seed, options.is_poisoned})) {
    return false;
  }
  if (!addresses_.open(options.address_bytes, &physical_)) return false;
  if (!threads_.open(kThreadsMax) || !host_ranges_.open(kHostRangesMax) || !modules_.open(kModulesMax) ||
      !arrays_.open(kArraysMax)) {
    return false;
  }
  if (!pools_.open(kPoolsMax) || !pool_blocks_.open(kPoolBlocksMax)) return false;
  default_pool_ = pools_.take();
  const auto seen = reinterpret_cast<std::uintptr_t>(addresses_.shadow(addresses_.begin()));
  const Lock hold(lock_);
  return queues_.open({options.schedule, options.seed, {seen, addresses_.size_bytes()}}, &lock_);
}

void Machine::close() noexcept {
  {
    const Lock hold(lock_);
    queues_.close();
  }
  for (std::uint32_t i = 0; i < host_ranges_.used(); ++i) {
    const HostRange* range = host_ranges_.find(i);
    if (range == nullptr || range->mapped_bytes == 0) continue;
    os::release(reinterpret_cast<void*>(range->base), range->mapped_bytes);
  }
  end_arrays();
  arrays_.close();
  host_ranges_.close();
  modules_.close();
  pools_.close();
  pool_blocks_.close();
  threads_.close();
  addresses_.close();
  physical_.close();
}

Result Machine::enter(Call call) noexcept {
  const Needs needs = needs_of(call);
  if (needs == Needs::nothing) return Result::success;
  if (!is_initialised_.load(std::memory_order_acquire)) return Result::not_initialized;
  const Lock hold(lock_);
  if (queues_.is_in_host_function()) {
    undefined_calls_.fetch_add(1, std::memory_order_relaxed);
    return Result::not_permitted;
  }
  if (needs == Needs::driver) return Result::success;
  if (queues_.error() != Result::success) return queues_.error();
  if (needs == Needs::no_error) return Result::success;
  const ThreadContext* thread = of_thread(false);
  const bool has_context = context_users_ != 0 && thread != nullptr && thread->is_current;
  if (!has_context) return Result::invalid_context;
  const bool is_of_pools = call >= Call::mem_alloc_async && call <= Call::mem_pool_trim_to;
  if (is_of_pools && !options_.has_memory_pools) return Result::not_supported;
  if (!is_unsafe_in_capture(call) || thread->capture_mode == CaptureMode::relaxed) return Result::success;
  return queues_.spoil_captures() ? Result::stream_capture_unsupported : Result::success;
}

// What the calling thread has set. nullptr: nothing so far, or too many threads.
Machine::ThreadContext* Machine::of_thread(bool must_exist) noexcept {
  const std::uint64_t thread = kernel_thread_id();
  for (std::size_t i = 0; i < kThreadsMax; ++i) {
    ThreadContext& entry = threads_[(thread + i) % kThreadsMax];
    if (entry.thread == thread) return &entry;
    if (entry.thread != 0) continue;
    if (!must_exist) return nullptr;
    entry.thread = thread;
    return &entry;
  }
  return nullptr;
}

EmulatedGpu::Usage Machine::usage() noexcept {
  const Lock hold(lock_);
  EmulatedGpu::Usage usage = {};
  end_pools();
  usage.reservations = addresses_.reservations();
  usage.mappings = addresses_.mappings();
  usage.handles = physical_.live();
  usage.device_bytes = physical_.device_used();
  usage.host_bytes = physical_.host_used();
  usage.streams = queues_.streams();
  usage.events = queues_.events();
  usage.modules = modules_.live();
  usage.arrays = arrays_.live();
  usage.host_ranges = host_ranges_.live();
  usage.pools = pools_.live() - 1;
  usage.waiting_operations = queues_.waiting();
  usage.total_creates = physical_.created();
  usage.undefined_calls = undefined_calls_.load(std::memory_order_relaxed);
  return usage;
}

void Machine::set_device_bytes(std::size_t size_bytes) noexcept {
  const Lock hold(lock_);
  physical_.set_device_bytes(size_bytes);
}

void Machine::set_capture_status(Stream handle, CaptureStatus status) noexcept {
  const Lock hold(lock_);
  cuda::StreamObject* stream = queues_.find(handle);
  CHECK(stream != nullptr);
  stream->capture = status;
}

unsigned Machine::run(unsigned count) noexcept {
  const Lock hold(lock_);
  return queues_.run(count);
}

// --- Devices and contexts: one device, its primary context ---

Result Machine::init(unsigned flags) noexcept {
  if (flags != 0) return Result::invalid_value;
  is_initialised_.store(true, std::memory_order_release);
  return Result::success;
}

Result Machine::driver_get_version(int* version) noexcept {
  if (version == nullptr) return Result::invalid_value;
  *version = kVersion;
  return Result::success;
}

Result Machine::device_get_count(int* count) noexcept {
  if (count == nullptr) return Result::invalid_value;
  *count = 1;
  return Result::success;
}

Result Machine::device_get(Device* device, int ordinal) noexcept {
  if (device == nullptr) return Result::invalid_value;
  if (ordinal != 0) return Result::invalid_device;
  *device = 0;
  return Result::success;
}

Result Machine::device_get_name(char* name, int size_bytes, Device device) noexcept {
  if (name == nullptr || size_bytes <= 0) return Result::invalid_value;
  if (device != 0) return Result::invalid_device;
  Text text({name, static_cast<std::size_t>(size_bytes)});
  text.append("glebe emulated GPU");
  return Result::success;
}

int Machine::attribute(DeviceAttribute attribute) const noexcept {
  switch (attribute) {
    case DeviceAttribute::warp_size:
      return 32;
    case DeviceAttribute::compute_capability_major:
      return 9;
    case DeviceAttribute::virtual_memory_management_supported:
    case DeviceAttribute::handle_type_posix_file_descriptor_supported:
    case DeviceAttribute::can_use_64_bit_stream_mem_ops:
      return 1;
    case DeviceAttribute::host_numa_virtual_memory_management_supported:
    case DeviceAttribute::host_virtual_memory_management_supported:
      return options_.has_host_numa ? 1 : 0;
    case DeviceAttribute::memory_pools_supported:
      return options_.has_memory_pools ? 1 : 0;
    case DeviceAttribute::sparse_cuda_array_supported:
      return options_.has_sparse_arrays ? 1 : 0;
    default:  // what is not emulated: compression, managed memory, other arrays, fabric, multicast
      return 0;
  }
}

Result Machine::device_get_attribute(int* value, DeviceAttribute wanted, Device device) noexcept {
  if (value == nullptr) return Result::invalid_value;
  if (device != 0) return Result::invalid_device;
  *value = attribute(wanted);
  return Result::success;
}

Result Machine::device_total_mem(std::size_t* size_bytes, Device device) noexcept {
  if (size_bytes == nullptr) return Result::invalid_value;
  if (device != 0) return Result::invalid_device;
  const Lock hold(lock_);
  *size_bytes = physical_.device_bytes();
  return Result::success;
}

Result Machine::primary_ctx_retain(Context* context, Device device) noexcept {
  if (context == nullptr) return Result::invalid_value;
  if (device != 0) return Result::invalid_device;
  const Lock hold(lock_);
  ++context_users_;
  *context = &context_;
  return Result::success;
}

// The last one ends the context with its streams, events, modules, arrays and its error. Virtual memory does
// not belong to a context and stays: that is our assumption until it is recorded from a device.
Result Machine::primary_ctx_release(Device device) noexcept {
  if (device != 0) return Result::invalid_device;
  const Lock hold(lock_);
  if (context_users_ == 0) return Result::invalid_context;
  if (--context_users_ != 0) return Result::success;
  queues_.reset();
  for (std::uint32_t i = 0; i < modules_.used(); ++i) {
    cuda::ModuleObject* module = modules_.find(i);
    if (module != nullptr) modules_.give_back(module);
  }
  end_arrays();
  return Result::success;
}

Result Machine::ctx_set_current(Context context) noexcept {
  if (context != nullptr && context != &context_) return Result::invalid_context;
  const Lock hold(lock_);
  ThreadContext* thread = of_thread(context != nullptr);
  if (thread != nullptr) thread->is_current = context != nullptr;
  return thread == nullptr && context != nullptr ? Result::out_of_memory : Result::success;
}

Result Machine::ctx_get_current(Context* context) noexcept {
  if (context == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  const ThreadContext* thread = of_thread(false);
  *context = thread != nullptr && thread->is_current ? &context_ : nullptr;
  return Result::success;
}

Result Machine::thread_exchange_capture_mode(CaptureMode* mode) noexcept {
  if (mode == nullptr || *mode < CaptureMode::global || *mode > CaptureMode::relaxed) {
    return Result::invalid_value;
  }
  const Lock hold(lock_);
  ThreadContext* thread = of_thread(true);
  if (thread == nullptr) return Result::out_of_memory;
  const CaptureMode before = thread->capture_mode;
  thread->capture_mode = *mode;
  *mode = before;
  return Result::success;
}

Result Machine::ctx_synchronize() noexcept {
  const Lock hold(lock_);
  const Result result = queues_.synchronize_all();
  settle_pools();
  return result;
}

}  // namespace glebe::os::emulated

namespace glebe::os {

bool EmulatedGpu::open(const Options& options) noexcept {
  CHECK(machine_ == nullptr);
  const std::size_t size_bytes = align_up(sizeof(emulated::Machine), page_bytes());
  void* memory = reserve(size_bytes, page_bytes());
  if (memory == nullptr) return false;
  if (!commit(memory, size_bytes)) {
    release(memory, size_bytes);
    return false;
  }
  machine_ = new (memory) emulated::Machine;
  if (machine_->open(options)) return true;
  close();
  return false;
}

void EmulatedGpu::close() noexcept {
  if (machine_ == nullptr) return;
  machine_->close();
  release(machine_, align_up(sizeof(emulated::Machine), page_bytes()));
  machine_ = nullptr;
}

cuda::Driver EmulatedGpu::driver() const noexcept { return machine_->driver(); }
EmulatedGpu::Usage EmulatedGpu::usage() const noexcept { return machine_->usage(); }
void EmulatedGpu::set_device_bytes(std::size_t size_bytes) noexcept {
  machine_->set_device_bytes(size_bytes);
}
void EmulatedGpu::set_capture_status(cuda::Stream stream, cuda::CaptureStatus status) noexcept {
  machine_->set_capture_status(stream, status);
}
unsigned EmulatedGpu::run(unsigned count) noexcept { return machine_->run(count); }

}  // namespace glebe::os
