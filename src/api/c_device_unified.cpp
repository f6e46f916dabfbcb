// The C interface of include/glebe/device_unified.h, buffers and guards: checks pointers, converts types.
// State is what the handle points to; a guard lies in the caller's structure.
#include <glebe/device_unified.h>

#include <new>

#include "src/api/device_unified_handles.h"
#include "src/device/driver_source.h"

namespace glebe::api {
namespace {

// A guard of ours that shows what it has.
class OwnGuard : public dev::UnifiedGuard {
 public:
  [[nodiscard]] void* data() const noexcept { return host_; }
  [[nodiscard]] cuda::DevicePointer address() const noexcept { return address_; }
};
// What lies in glebe_unified_guard::opaque; zeros where no guard is.
struct OpenGuard {
  static constexpr std::uint64_t kOpen = 0x6472'6175'672e'6f6b;
  std::uint64_t mark;
  OwnGuard guard;
};
static_assert(sizeof(OpenGuard) <= sizeof(glebe_unified_guard::opaque));
static_assert(alignof(OpenGuard) <= alignof(glebe_unified_guard));
bool is_open(const glebe_unified_guard& guard) noexcept { return guard.opaque[0] == OpenGuard::kOpen; }

static_assert(sizeof(dev::CancelFlag) <= sizeof(glebe_cancel_flag));
const dev::CancelFlag* to_own(const glebe_cancel_flag* flag) noexcept {
  return reinterpret_cast<const dev::CancelFlag*>(flag);
}

static_assert(glebe_unified_device_overwrite == static_cast<int>(dev::UnifiedUse::device_overwrite));
static_assert(glebe_unified_device_dirty == static_cast<int>(dev::UnifiedState::device_dirty));
bool is_use(glebe_unified_use use) noexcept {
  return use >= glebe_unified_host_read && use <= glebe_unified_device_overwrite;
}
bool is_side(glebe_unified_side side) noexcept {
  return side == glebe_unified_host || side == glebe_unified_device;
}
dev::UnifiedSide to_own(glebe_unified_side side) noexcept { return static_cast<dev::UnifiedSide>(side); }

// With the length that it has now. An offset behind the end is left to the call to refuse.
dev::Outcome resolve(glebe_unified* unified, const glebe_unified_range* from,
                     dev::UnifiedRange* to) noexcept {
  if (unified == nullptr || from == nullptr) return dev::Status::bad_argument;
  *to = {from->buffer, from->offset, from->size};
  if (from->size != 0) return {};
  dev::UnifiedInfo now;
  const dev::Outcome outcome = own(unified).memory.info(from->buffer, &now);
  if (outcome.ok() && from->offset < now.size_bytes) to->size_bytes = now.size_bytes - from->offset;
  return outcome;
}

dev::Outcome convert(OwnUnified& made, const glebe_unified_options& from, dev::UnifiedOptions* to) noexcept {
  if (from.heap != nullptr) to->source = own(from.heap).heap.source();
  if (from.wait_ns != 0) to->wait_ns = from.wait_ns;
  if (from.refuses_to_wait != 0) to->wait_ns = 0;
  if (from.piece_bytes != 0) to->piece_bytes = from.piece_bytes;
  if (from.buffers_max != 0) to->buffers_max = from.buffers_max;
  if (from.host_limit_bytes == 0) return {};
  to->budget = &made.budget;
  const paging::BudgetResult result =
      made.budget.open("unified", from.host_limit_bytes, paging::BudgetAction::enforce, {});
  return result == paging::BudgetResult::ok ? dev::Status::ok : dev::Status::bad_argument;
}

}  // namespace
}  // namespace glebe::api

using namespace glebe::api;

extern "C" {

// The numbers of parameters are those of the published interface.
// NOLINTBEGIN(readability-function-size)

glebe_device_result glebe_unified_open(glebe_device* device, const glebe_unified_options* options,
                                       glebe_unified** unified) {
  const glebe_unified_options given = given_or_defaults(options);
  if (device == nullptr || unified == nullptr || given.struct_bytes < sizeof given) {
    return glebe_device_bad_argument;
  }
  dev::Gpu& gpu = own(device).gpu;
  if (given.heap != nullptr && &own(given.heap).heap.gpu() != &gpu) return glebe_device_bad_argument;
  OwnUnified* const made = make_own<OwnUnified>();
  if (made == nullptr) return glebe_device_no_host_memory;
  dev::UnifiedOptions wanted;
  wanted.source = dev::driver_source(gpu);
  dev::Outcome outcome = convert(*made, given, &wanted);
  if (outcome.ok()) outcome = made->memory.open(gpu, wanted);
  if (!outcome.ok()) {
    end_own(made);
    return to_c(outcome);
  }
  *unified = reinterpret_cast<glebe_unified*>(made);
  return glebe_device_ok;
}

glebe_device_result glebe_unified_close(glebe_unified* unified) {
  if (unified == nullptr) return glebe_device_ok;
  const dev::Outcome outcome = own(unified).memory.close();
  if (outcome.ok()) end_own(&own(unified));
  return to_c(outcome);
}

glebe_device_result glebe_unified_create(glebe_unified* unified, uint64_t size, int is_pinned,
                                         glebe_unified_buffer* buffer) {
  if (unified == nullptr || buffer == nullptr) return glebe_device_bad_argument;
  dev::UnifiedHandle made = 0;
  const dev::Outcome outcome = own(unified).memory.create({size, is_pinned != 0}, &made);
  if (outcome.ok()) *buffer = made;
  return to_c(outcome);
}

glebe_device_result glebe_unified_adopt(glebe_unified* unified, uint64_t size, void* host, uint64_t address,
                                        glebe_unified_buffer* buffer) {
  if (unified == nullptr || buffer == nullptr) return glebe_device_bad_argument;
  dev::UnifiedHandle made = 0;
  const dev::Outcome outcome =
      own(unified).memory.adopt({size, static_cast<std::byte*>(host), address}, &made);
  if (outcome.ok()) *buffer = made;
  return to_c(outcome);
}

glebe_device_result glebe_unified_retain(glebe_unified* unified, glebe_unified_buffer buffer) {
  return unified != nullptr ? to_c(own(unified).memory.share(buffer)) : glebe_device_bad_argument;
}

glebe_device_result glebe_unified_release(glebe_unified* unified, glebe_unified_buffer buffer) {
  return unified != nullptr ? to_c(own(unified).memory.release(buffer)) : glebe_device_bad_argument;
}

void glebe_unified_abandon(glebe_unified* unified, glebe_unified_buffer buffer) {
  if (unified != nullptr) own(unified).memory.abandon(buffer);
}

glebe_device_result glebe_unified_slice(const glebe_unified_range* whole, uint64_t offset, uint64_t size,
                                        glebe_unified_range* part) {
  if (whole == nullptr || part == nullptr || size == 0) return glebe_device_bad_argument;
  // The end of a range without a size is not known here; its offset is not passed all the same.
  const std::uint64_t length = whole->size != 0 ? whole->size : UINT64_MAX - whole->offset;
  if (offset > length || size > length - offset) return glebe_device_bad_argument;
  *part = {whole->buffer, whole->offset + offset, size};
  return glebe_device_ok;
}

void glebe_cancel_flag_set(glebe_cancel_flag* flag, int is_cancelled) {
  if (flag == nullptr) return;
  reinterpret_cast<dev::CancelFlag*>(flag)->store(is_cancelled != 0, std::memory_order_relaxed);
}

glebe_device_result glebe_unified_access(glebe_unified* unified, const glebe_unified_range* range,
                                         glebe_unified_use use, void* stream, const glebe_cancel_flag* cancel,
                                         glebe_unified_guard* guard) {
  dev::UnifiedMemory::Request request;
  if (guard == nullptr || !is_use(use)) return glebe_device_bad_argument;
  if (is_open(*guard)) return glebe_device_in_use;
  dev::Outcome outcome = resolve(unified, range, &request.range);
  if (!outcome.ok()) return to_c(outcome);
  request.use = static_cast<dev::UnifiedUse>(use);
  request.stream = to_stream(stream);
  request.cancel = to_own(cancel);
  auto* made = new (guard->opaque) OpenGuard{OpenGuard::kOpen, {}};
  outcome = own(unified).memory.access(request, &made->guard);
  if (!outcome.ok()) {
    made->~OpenGuard();
    guard->opaque[0] = 0;
    return to_c(outcome);
  }
  guard->data = made->guard.data();
  guard->address = made->guard.address();
  guard->size = made->guard.size_bytes();
  return glebe_device_ok;
}

void glebe_unified_end(glebe_unified_guard* guard) {
  if (guard == nullptr || !is_open(*guard)) return;
  reinterpret_cast<OpenGuard*>(guard->opaque)->~OpenGuard();
  *guard = {};
}

glebe_device_result glebe_unified_prefetch(glebe_unified* unified, const glebe_unified_range* range,
                                           glebe_unified_side side, void* stream) {
  dev::UnifiedRange resolved;
  if (!is_side(side)) return glebe_device_bad_argument;
  dev::Outcome outcome = resolve(unified, range, &resolved);
  if (outcome.ok()) outcome = own(unified).memory.prefetch(resolved, to_own(side), to_stream(stream));
  return to_c(outcome);
}

glebe_device_result glebe_unified_evict(glebe_unified* unified, glebe_unified_buffer buffer,
                                        glebe_unified_side side, const glebe_cancel_flag* cancel) {
  if (unified == nullptr || !is_side(side)) return glebe_device_bad_argument;
  return to_c(own(unified).memory.evict(buffer, to_own(side), to_own(cancel)));
}

glebe_device_result glebe_unified_discard(glebe_unified* unified, glebe_unified_buffer buffer) {
  return unified != nullptr ? to_c(own(unified).memory.discard(buffer)) : glebe_device_bad_argument;
}

glebe_device_result glebe_unified_resize(glebe_unified* unified, glebe_unified_buffer buffer, uint64_t size) {
  return unified != nullptr ? to_c(own(unified).memory.resize(buffer, size)) : glebe_device_bad_argument;
}

glebe_device_result glebe_unified_fill(glebe_unified* unified, const glebe_unified_range* range,
                                       const void* pattern, size_t pattern_bytes, glebe_unified_side side,
                                       void* stream) {
  dev::UnifiedRange resolved;
  dev::UnifiedPattern converted;
  if (!is_side(side) || pattern == nullptr || pattern_bytes == 0 || pattern_bytes > sizeof converted.bytes) {
    return glebe_device_bad_argument;
  }
  dev::Outcome outcome = resolve(unified, range, &resolved);
  if (!outcome.ok()) return to_c(outcome);
  std::memcpy(converted.bytes, pattern, pattern_bytes);
  converted.size_bytes = static_cast<unsigned>(pattern_bytes);
  return to_c(own(unified).memory.fill(resolved, converted, to_own(side), to_stream(stream)));
}

glebe_device_result glebe_unified_copy(glebe_unified* unified, const glebe_unified_range* to,
                                       const glebe_unified_range* from, glebe_unified_side side,
                                       void* stream) {
  dev::UnifiedRange target, source;
  if (!is_side(side)) return glebe_device_bad_argument;
  dev::Outcome outcome = resolve(unified, to, &target);
  if (outcome.ok()) outcome = resolve(unified, from, &source);
  if (outcome.ok()) outcome = own(unified).memory.copy(target, source, to_own(side), to_stream(stream));
  return to_c(outcome);
}

glebe_device_result glebe_unified_attach(glebe_unified* unified, glebe_unified_buffer buffer,
                                         uint64_t address) {
  return unified != nullptr ? to_c(own(unified).memory.attach_device(buffer, address))
                            : glebe_device_bad_argument;
}

glebe_device_result glebe_unified_detach(glebe_unified* unified, glebe_unified_buffer buffer,
                                         uint64_t* address) {
  if (unified == nullptr || address == nullptr) return glebe_device_bad_argument;
  cuda::DevicePointer taken = 0;
  const dev::Outcome outcome = own(unified).memory.detach_device(buffer, &taken);
  if (outcome.ok()) *address = taken;
  return to_c(outcome);
}

glebe_device_result glebe_unified_mark_written(glebe_unified* unified, glebe_unified_buffer buffer,
                                               glebe_unified_side side) {
  if (unified == nullptr || !is_side(side)) return glebe_device_bad_argument;
  return to_c(own(unified).memory.mark_written(buffer, to_own(side)));
}

glebe_device_result glebe_unified_wait_idle(glebe_unified* unified, glebe_unified_buffer buffer) {
  return unified != nullptr ? to_c(own(unified).memory.wait_idle(buffer)) : glebe_device_bad_argument;
}

const char* glebe_unified_state_text(glebe_unified_state state) {
  const bool is_state = state >= glebe_unified_host_only && state <= glebe_unified_device_dirty;
  return is_state ? name_of(static_cast<dev::UnifiedState>(state)) : "unknown";
}

glebe_device_result glebe_unified_get_info(glebe_unified* unified, glebe_unified_buffer buffer,
                                           glebe_unified_info* info) {
  if (unified == nullptr || info == nullptr) return glebe_device_bad_argument;
  dev::UnifiedInfo from;
  const dev::Outcome outcome = own(unified).memory.info(buffer, &from);
  if (!outcome.ok()) return to_c(outcome);
  *info = {};
  info->state = static_cast<glebe_unified_state>(from.state);
  info->readers = from.readers;
  info->writers = from.writers;
  info->pending = from.pending;
  info->size = from.size_bytes;
  info->host_bytes = from.host_bytes;
  info->device_bytes = from.device_bytes;
  info->dirty_bytes = from.dirty_bytes;
  info->align_bytes = from.align_bytes;
  info->to_device_bytes = from.to_device_bytes;
  info->to_device_copies = from.to_device_copies;
  info->to_host_bytes = from.to_host_bytes;
  info->to_host_copies = from.to_host_copies;
  info->host_allocations = from.host_allocations;
  info->device_allocations = from.device_allocations;
  return glebe_device_ok;
}

void glebe_unified_get_stats(glebe_unified* unified, glebe_unified_stats* stats) {
  if (unified == nullptr || stats == nullptr) return;
  const dev::UnifiedStats from = own(unified).memory.stats();
  *stats = {from.buffers, from.host_bytes, from.device_bytes};
}

// NOLINTEND(readability-function-size)

}  // extern "C"
