// Entries of the emulated driver: streams, events, host functions, modules and kernels; see machine.h.
#include <cstring>

#include "platform/emulated_gpu/machine.h"

namespace glebe::os::emulated {

using cuda::Result;

namespace {

// Whether the text of a module has an entry of this name: ".entry NAME" and no letter behind it.
bool has_entry(const char* text, const char* name) noexcept {
  constexpr char kEntry[] = ".entry ";
  const std::size_t length = std::strlen(name);
  for (const char* at = std::strstr(text, kEntry); at != nullptr; at = std::strstr(at, kEntry)) {
    at += sizeof kEntry - 1;
    if (std::strncmp(at, name, length) != 0) continue;
    const char behind = at[length];
    if (behind == '(' || behind == ' ' || behind == '\n' || behind == '\0') return true;
  }
  return false;
}

}  // namespace

Result Machine::stream_create(Stream* stream, unsigned flags) noexcept {
  if (stream == nullptr || (flags & ~unsigned{cuda::kStreamNonBlocking}) != 0) return Result::invalid_value;
  const Lock hold(lock_);
  cuda::StreamObject* made = queues_.create_stream(flags);
  if (made == nullptr) return Result::out_of_memory;
  *stream = made;
  return Result::success;
}

// What waits in it is still done.
Result Machine::stream_destroy(Stream handle) noexcept {
  const Lock hold(lock_);
  cuda::StreamObject* stream = queues_.find(handle);
  if (stream == nullptr || stream != handle) return Result::invalid_handle;
  queues_.destroy_stream(stream);
  return Result::success;
}

Result Machine::stream_synchronize(Stream handle) noexcept {
  const Lock hold(lock_);
  cuda::StreamObject* stream = queues_.find(handle);
  if (stream == nullptr) return Result::invalid_handle;
  const Result result = queues_.synchronize(stream);
  settle_pools();
  return result;
}

Result Machine::stream_query(Stream handle) noexcept {
  const Lock hold(lock_);
  if (queues_.find(handle) == nullptr) return Result::invalid_handle;
  queues_.poll();
  if (queues_.error() != Result::success) return queues_.error();
  const cuda::StreamObject* stream = queues_.find(handle);
  if (stream == nullptr) return Result::invalid_handle;
  return queues_.is_idle(stream) ? Result::success : Result::not_ready;
}

Result Machine::stream_wait_event(Stream handle, Event event, unsigned flags) noexcept {
  if (flags != 0) return Result::invalid_value;
  const Lock hold(lock_);
  cuda::StreamObject* stream = queues_.find(handle);
  if (stream == nullptr || !queues_.holds(event)) return Result::invalid_handle;
  // What was recorded until now counts; never recorded is nothing to wait for.
  if (event->reached >= event->recorded) return Result::success;
  Operation* operation = queues_.make(Operation::Kind::wait, stream);
  if (operation == nullptr) return queues_.error();
  operation->place = event->last;
  return queues_.queue(operation);
}

Result Machine::stream_get_id(Stream handle, unsigned long long* id) noexcept {
  if (id == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  const cuda::StreamObject* stream = queues_.find(handle);
  if (stream == nullptr) return Result::invalid_handle;
  *id = stream->id;
  return Result::success;
}

Result Machine::stream_is_capturing(Stream handle, CaptureStatus* status) noexcept {
  if (status == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  const cuda::StreamObject* stream = queues_.find(handle);
  if (stream == nullptr) return Result::invalid_handle;
  *status = stream->capture;
  return Result::success;
}

Result Machine::launch_host_function(Stream handle, HostFunction function, void* user_data) noexcept {
  if (function == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  cuda::StreamObject* stream = queues_.find(handle);
  if (stream == nullptr) return Result::invalid_handle;
  Operation* operation = queues_.make(Operation::Kind::host_function, stream);
  if (operation == nullptr) return queues_.error();
  operation->function = function;
  operation->user_data = user_data;
  return queues_.queue(operation);
}

// --- Events ---

Result Machine::event_create(Event* event, unsigned flags) noexcept {
  constexpr unsigned kFlags = cuda::kEventBlockingSync | cuda::kEventDisableTiming;
  if (event == nullptr || (flags & ~kFlags) != 0) return Result::invalid_value;
  const Lock hold(lock_);
  cuda::EventObject* made = queues_.create_event(flags);
  if (made == nullptr) return Result::out_of_memory;
  *event = made;
  return Result::success;
}

Result Machine::event_destroy(Event event) noexcept {
  const Lock hold(lock_);
  if (!queues_.holds(event)) return Result::invalid_handle;
  queues_.destroy_event(event);
  return Result::success;
}

Result Machine::event_record(Event event, Stream handle) noexcept {
  const Lock hold(lock_);
  cuda::StreamObject* stream = queues_.find(handle);
  if (stream == nullptr || !queues_.holds(event)) return Result::invalid_handle;
  Operation* operation = queues_.make(Operation::Kind::record, stream);
  if (operation == nullptr) return queues_.error();
  operation->event = event;
  operation->event_number = ++event->recorded;
  return queues_.queue(operation);
}

Result Machine::event_query(Event event) noexcept {
  const Lock hold(lock_);
  if (!queues_.holds(event)) return Result::invalid_handle;
  queues_.poll();
  if (queues_.error() != Result::success) return queues_.error();
  if (!queues_.holds(event)) return Result::invalid_handle;
  return event->reached >= event->recorded ? Result::success : Result::not_ready;
}

Result Machine::event_synchronize(Event event) noexcept {
  const Lock hold(lock_);
  if (!queues_.holds(event)) return Result::invalid_handle;
  const Result result = queues_.synchronize(event);
  settle_pools();
  return result;
}

Result Machine::event_elapsed_time(float* duration_ms, Event start, Event end) noexcept {
  if (duration_ms == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  for (const cuda::EventObject* event : {start, end}) {
    if (!queues_.holds(event) || (event->flags & cuda::kEventDisableTiming) != 0)
      return Result::invalid_handle;
    if (event->recorded == 0) return Result::invalid_handle;
  }
  if (start->reached < start->recorded || end->reached < end->recorded) return Result::not_ready;
  const auto ns = static_cast<std::int64_t>(end->reached_ns - start->reached_ns);
  *duration_ms = static_cast<float>(static_cast<double>(ns) * 1e-6);
  return Result::success;
}

// --- Modules and kernels: the text of a module says which of the registered functions it has ---

Result Machine::module_load_data(Module* module, const void* image) noexcept {
  if (module == nullptr || image == nullptr) return Result::invalid_value;
  const auto* text = static_cast<const char*>(image);
  if (std::strstr(text, ".version") == nullptr) return Result::invalid_image;
  const Lock hold(lock_);
  cuda::ModuleObject* made = modules_.take();
  if (made == nullptr) return Result::out_of_memory;
  for (std::size_t i = 0; i < options_.kernels.size(); ++i) {
    if (has_entry(text, options_.kernels[i].name)) made->functions[i] = {&options_.kernels[i], made};
  }
  *module = made;
  return Result::success;
}

Result Machine::module_unload(Module module) noexcept {
  const Lock hold(lock_);
  if (!modules_.holds(module)) return Result::invalid_handle;
  modules_.give_back(module);
  return Result::success;
}

Result Machine::module_get_function(Function* function, Module module, const char* name) noexcept {
  if (function == nullptr || name == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  if (!modules_.holds(module)) return Result::invalid_handle;
  for (cuda::FunctionObject& known : module->functions) {
    if (known.kernel == nullptr || std::strcmp(known.kernel->name, name) != 0) continue;
    *function = &known;
    return Result::success;
  }
  return Result::not_found;
}

// NOLINTNEXTLINE(readability-function-size): the driver's signature
Result Machine::launch_kernel(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                              unsigned block_x, unsigned block_y, unsigned block_z, unsigned, Stream handle,
                              void** parameters, void** extra) noexcept {
  const KernelCall call = {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, nullptr,
                           addresses_.begin(),       addresses_.size_bytes(),     addresses_.distance()};
  if (extra != nullptr) return Result::not_supported;
  for (int i = 0; i < 3; ++i) {
    if (call.grid[i] == 0 || call.block[i] == 0) return Result::invalid_value;
  }
  const Lock hold(lock_);
  cuda::StreamObject* stream = queues_.find(handle);
  if (stream == nullptr || function == nullptr || !modules_.holds(function->module)) {
    return Result::invalid_handle;
  }
  const EmulatedKernel& kernel = *function->kernel;
  if (parameters == nullptr && kernel.parameter_bytes[0] != 0) return Result::invalid_value;
  Operation* operation = queues_.make(Operation::Kind::kernel, stream);
  if (operation == nullptr) return queues_.error();
  operation->kernel = &kernel;
  operation->call = call;
  // One behind the other, each where its alignment, taken to be its size, allows it.
  std::size_t used = 0;
  for (unsigned i = 0; i < EmulatedKernel::kParametersMax && kernel.parameter_bytes[i] != 0; ++i) {
    const std::size_t bytes = kernel.parameter_bytes[i];
    used = (used + bytes - 1) / bytes * bytes;
    CHECK(used + bytes <= Operation::kParameterBytes);
    std::memcpy(operation->parameters + used, parameters[i], bytes);
    used += bytes;
  }
  return queues_.queue(operation);
}

}  // namespace glebe::os::emulated
