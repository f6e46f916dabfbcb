// Operations on whole buffers and ranges that are made of accesses: fill, copy, resize, discard, memory of
// the caller's. See unified_buffer_memory.h.
#include <cstring>

#include "src/base/check.h"
#include "src/device/unified_buffer_record.h"

namespace glebe::device {

namespace {

// The shortest pattern that repeats to the same bytes.
unsigned period_of(const UnifiedPattern& pattern) noexcept {
  unsigned period = pattern.size_bytes;
  while (period > 1 && std::memcmp(pattern.bytes, pattern.bytes + period / 2, period / 2) == 0) period /= 2;
  return period;
}

bool is_pattern(const UnifiedPattern& pattern, const UnifiedRange& range) noexcept {
  const bool is_size = is_power_of_two(pattern.size_bytes) && pattern.size_bytes <= sizeof pattern.bytes;
  return is_size && range.size_bytes % pattern.size_bytes == 0;
}

// Each doubling copies what is there already.
void fill_bytes(std::byte* to, std::uint64_t size_bytes, const UnifiedPattern& pattern) noexcept {
  std::uint64_t done = pattern.size_bytes;
  if (size_bytes < done) return;
  std::memcpy(to, pattern.bytes, done);
  while (done < size_bytes) {
    const std::uint64_t more = done < size_bytes - done ? done : size_bytes - done;
    std::memcpy(to + done, to, more);
    done += more;
  }
}

struct CopyWithin {
  UnifiedRange from;
};

}  // namespace

Outcome UnifiedMemory::fill(const UnifiedRange& range, const UnifiedPattern& pattern, UnifiedSide side,
                            cuda::Stream stream) noexcept {
  if (!is_pattern(pattern, range)) return Status::bad_argument;
  if (side == UnifiedSide::host) {
    HostWrite guard;
    const Outcome outcome = access({range, UnifiedUse::host_overwrite}, &guard);
    if (outcome.ok()) fill_bytes(guard.data(), range.size_bytes, pattern);
    return outcome;
  }
  UnifiedPattern wanted = pattern;
  return access_and_do({range, UnifiedUse::device_overwrite, stream}, {fill_on_device, &wanted});
}

Outcome UnifiedMemory::fill_on_device(UnifiedMemory& memory, UnifiedRecord& record,
                                      const Work& work) noexcept {
  Gpu& gpu = *memory.gpu_;
  const CurrentContext current(gpu);
  const cuda::Driver& driver = gpu.driver();
  const auto& pattern = *static_cast<const UnifiedPattern*>(work.context);
  const cuda::DevicePointer to = record.device + work.offset_bytes;
  const unsigned period = period_of(pattern);
  if (period == 1) {
    const auto value = static_cast<unsigned char>(pattern.bytes[0]);
    return gpu.check(driver.memset_d8_async(to, value, work.size_bytes, work.stream));
  }
  if (period <= sizeof(unsigned) && (to | work.size_bytes) % sizeof(unsigned) == 0) {
    unsigned word = 0;
    for (unsigned i = 0; i < sizeof word; i += period) {
      std::memcpy(reinterpret_cast<std::byte*>(&word) + i, pattern.bytes, period);
    }
    return gpu.check(driver.memset_d32_async(to, word, work.size_bytes / sizeof word, work.stream));
  }
  // One pattern byte by byte, or word by word, and then by doubling: no bytes of the host that the device
  // might read late.
  Outcome outcome;
  const unsigned unit = to % sizeof(unsigned) == 0 && period % sizeof(unsigned) == 0 ? sizeof(unsigned) : 1;
  for (unsigned at = 0; at < period && outcome.ok(); at += unit) {
    unsigned word = 0;
    std::memcpy(&word, pattern.bytes + at, unit);
    outcome = gpu.check(
        unit == 1 ? driver.memset_d8_async(to + at, static_cast<unsigned char>(word), 1, work.stream)
                  : driver.memset_d32_async(to + at, word, 1, work.stream));
  }
  std::uint64_t done = period;
  while (outcome.ok() && done < work.size_bytes) {
    const std::uint64_t more = done < work.size_bytes - done ? done : work.size_bytes - done;
    outcome = gpu.check(driver.memcpy_d2d_async(to + done, to, more, work.stream));
    done += more;
  }
  return outcome;
}

// Buffers are taken in the order of their numbers, so that two threads that copy both ways do not wait for
// each other.
Outcome UnifiedMemory::copy(const UnifiedRange& to, const UnifiedRange& from, UnifiedSide side,
                            cuda::Stream stream) noexcept {
  if (to.size_bytes != from.size_bytes) return Status::bad_argument;
  if (to.buffer == from.buffer) {
    CopyWithin copy = {from};
    const bool is_host = side == UnifiedSide::host;
    return access_and_do({to, is_host ? UnifiedUse::host_write : UnifiedUse::device_write, stream},
                         {is_host ? copy_within_host : copy_within_device, &copy});
  }
  const bool is_from_first = static_cast<std::uint32_t>(from.buffer) < static_cast<std::uint32_t>(to.buffer);
  if (side == UnifiedSide::device) {
    return copy_on_device({from, UnifiedUse::device_read, stream},
                          {to, UnifiedUse::device_overwrite, stream});
  }
  HostRead source;
  HostWrite target;
  const Request read = {from, UnifiedUse::host_read}, write = {to, UnifiedUse::host_overwrite};
  // The target opens last: what it says is overwritten is.
  Outcome outcome = is_from_first ? access(read, &source) : access({to, UnifiedUse::host_write}, &target);
  if (outcome.ok()) outcome = is_from_first ? access(write, &target) : access(read, &source);
  if (outcome.ok()) std::memcpy(target.data(), source.data(), to.size_bytes);
  return outcome;
}

// The guard of `from` is open while `to` is changed. Of two copies that go both ways one waits like that, and
// the other one gives way.
Outcome UnifiedMemory::copy_on_device(const Request& read, const Request& write) noexcept {
  const bool is_from_first =
      static_cast<std::uint32_t>(read.range.buffer) < static_cast<std::uint32_t>(write.range.buffer);
  constexpr int kTries = 1000;
  for (int i = 0; i < kTries; ++i) {
    {
      DeviceRead source;
      const Outcome outcome = access(read, &source);
      if (!outcome.ok()) return outcome;
      cuda::DevicePointer address = source.address();
      const Outcome copied = access_and_do(write, {copy_from_address, &address, is_from_first});
      if (copied.status != Status::not_ready) return copied;
    }
    UnifiedRecord* record = nullptr;
    const Outcome outcome = begin_change({.buffer = write.range.buffer, .use = write.use}, &record);
    if (!outcome.ok()) return outcome;
    end_change(*record);
  }
  return Status::in_use;
}

Outcome UnifiedMemory::copy_from_address(UnifiedMemory& memory, UnifiedRecord& record,
                                         const Work& work) noexcept {
  const CurrentContext current(*memory.gpu_);
  const auto from = *static_cast<const cuda::DevicePointer*>(work.context);
  return memory.gpu_->check(memory.gpu_->driver().memcpy_d2d_async(record.device + work.offset_bytes, from,
                                                                   work.size_bytes, work.stream));
}

Outcome UnifiedMemory::copy_within_host(UnifiedMemory&, UnifiedRecord& record, const Work& work) noexcept {
  const UnifiedRange& from = static_cast<const CopyWithin*>(work.context)->from;
  if (from.offset_bytes > record.size_bytes || from.size_bytes > record.size_bytes - from.offset_bytes) {
    return Status::bad_argument;
  }
  std::memmove(record.host + work.offset_bytes, record.host + from.offset_bytes, work.size_bytes);
  return {};
}

// Ranges that overlap go through a block of their own, because a copy of the driver may take its bytes in any
// order.
Outcome UnifiedMemory::copy_within_device(UnifiedMemory& memory, UnifiedRecord& record,
                                          const Work& work) noexcept {
  const UnifiedRange& range = static_cast<const CopyWithin*>(work.context)->from;
  if (range.offset_bytes > record.size_bytes || range.size_bytes > record.size_bytes - range.offset_bytes) {
    return Status::bad_argument;
  }
  Gpu& gpu = *memory.gpu_;
  const cuda::Driver& driver = gpu.driver();
  const CurrentContext current(gpu);
  const cuda::DevicePointer to = record.device + work.offset_bytes, from = record.device + range.offset_bytes;
  if (to == from) return {};
  const std::uint64_t distance = to > from ? to - from : from - to;
  if (distance >= work.size_bytes) {
    return gpu.check(driver.memcpy_d2d_async(to, from, work.size_bytes, work.stream));
  }
  cuda::DevicePointer block = 0;
  const BlockSource& source = memory.options_.source;
  Outcome outcome = source.allocate(source.self, work.size_bytes, 0, &block);
  if (!outcome.ok()) return outcome;
  outcome = gpu.check(driver.memcpy_d2d_async(block, from, work.size_bytes, work.stream));
  if (outcome.ok()) outcome = gpu.check(driver.memcpy_d2d_async(to, block, work.size_bytes, work.stream));
  // While it may be in use it is not given back: rather never.
  Outcome idle = gpu.check(driver.stream_synchronize(work.stream));
  if (!idle.ok()) idle = gpu.check(driver.ctx_synchronize());
  if (idle.status == Status::device_lost) return idle;
  constexpr int kTries = 3;
  for (int i = 0; idle.ok() && i < kTries && !source.free(source.self, block).ok(); ++i) continue;
  return outcome;
}

Outcome UnifiedMemory::discard(UnifiedHandle buffer) noexcept {
  UnifiedRecord* record = nullptr;
  Outcome outcome = begin_change({.buffer = buffer}, &record);
  if (!outcome.ok()) return outcome;
  outcome = drop_both(*record);
  if (outcome.ok()) {
    record->dirty.clear_all();
    record->state = UnifiedState::host_only;
    record->is_blank = true;
    record->is_broken = false;
  }
  end_change(*record);
  return outcome;
}

Outcome UnifiedMemory::resize(UnifiedHandle buffer, std::uint64_t size_bytes) noexcept {
  if (size_bytes == 0 || size_bytes > kUnifiedBytesMax) return Status::bad_argument;
  UnifiedRecord* record = nullptr;
  Outcome outcome = begin_change({.buffer = buffer}, &record);
  if (!outcome.ok()) return outcome;
  const bool is_on_device =
      record->state == UnifiedState::device_only || record->state == UnifiedState::device_dirty;
  if (record->is_host_foreign || record->is_device_foreign) outcome = Status::bad_argument;
  if (outcome.ok() && size_bytes != record->size_bytes) {
    if (!record->dirty.make_room(size_bytes)) outcome = Status::no_host_memory;
    if (outcome.ok() && record->is_blank) {
      outcome = drop_both(*record);
    } else if (outcome.ok()) {
      outcome = is_on_device ? resize_device(*record, size_bytes) : resize_host(*record, size_bytes);
    }
    if (outcome.ok()) {
      record->dirty.start(size_bytes);
      record->size_bytes = size_bytes;
    }
  }
  end_change(*record);
  return outcome;
}

Outcome UnifiedMemory::resize_host(UnifiedRecord& record, std::uint64_t size_bytes) noexcept {
  Outcome outcome = wait_for(record, kTouchesAll, nullptr);
  if (outcome.ok() && record.is_broken) outcome = Status::device_lost;
  std::byte* fresh = nullptr;
  if (outcome.ok()) outcome = allocate_host(record, size_bytes, &fresh);
  if (!outcome.ok()) return outcome;
  const std::uint64_t kept = size_bytes < record.size_bytes ? size_bytes : record.size_bytes;
  std::memcpy(fresh, record.host, kept);
  std::memset(fresh + kept, 0, size_bytes - kept);
  outcome = drop_device(record);
  if (outcome.ok()) {
    record.dirty.clear_all();
    record.state = UnifiedState::host_only;
    outcome = free_host(record, record.host, record.size_bytes);
  }
  if (outcome.ok()) {
    record.host = fresh;
  } else {
    static_cast<void>(free_host(record, fresh, size_bytes));
  }
  return outcome;
}

Outcome UnifiedMemory::resize_device(UnifiedRecord& record, std::uint64_t size_bytes) noexcept {
  Outcome outcome = order_after(record, copies_, kTouchesDevice);
  cuda::DevicePointer fresh = 0;
  if (outcome.ok()) outcome = allocate_device(record, size_bytes, &fresh);
  if (!outcome.ok()) return outcome;
  const std::uint64_t kept = size_bytes < record.size_bytes ? size_bytes : record.size_bytes;
  {
    const CurrentContext current(*gpu_);
    const cuda::Driver& driver = gpu_->driver();
    outcome = gpu_->check(driver.memcpy_d2d_async(fresh, record.device, kept, copies_));
    if (outcome.ok() && size_bytes > kept) {
      outcome = gpu_->check(driver.memset_d8_async(fresh + kept, 0, size_bytes - kept, copies_));
    }
    note_use(record, copies_, kTouchesDevice);
  }
  const Outcome idle = wait_for(record, kTouchesAll, nullptr);
  if (!idle.ok()) return idle;  // the fresh block may be in use: it is not given back
  if (outcome.ok() && gpu_->is_lost()) outcome = Status::device_lost;
  if (outcome.ok()) outcome = drop_host(record);
  if (outcome.ok()) {
    record.dirty.clear_all();
    record.state = UnifiedState::device_only;
    outcome = free_device(record.device, record.size_bytes);
  }
  if (outcome.ok()) {
    record.device = fresh;
  } else {
    static_cast<void>(free_device(fresh, size_bytes));
  }
  return outcome;
}

Outcome UnifiedMemory::attach_device(UnifiedHandle buffer, cuda::DevicePointer address) noexcept {
  if (address == 0) return Status::bad_argument;
  UnifiedRecord* record = nullptr;
  Outcome outcome = begin_change({.buffer = buffer}, &record);
  if (!outcome.ok()) return outcome;
  if (record->has_device || record->is_device_foreign) outcome = Status::in_use;
  if (outcome.ok()) {
    record->device = address;
    record->has_device = record->is_device_foreign = true;
    if (!record->is_blank) {
      record->state = UnifiedState::host_dirty;
      record->dirty.set(record->dirty.all());
    }
  }
  end_change(*record);
  return outcome;
}

Outcome UnifiedMemory::detach_device(UnifiedHandle buffer, cuda::DevicePointer* address) noexcept {
  if (address == nullptr) return Status::bad_argument;
  UnifiedRecord* record = nullptr;
  Outcome outcome = begin_change({.buffer = buffer}, &record);
  if (!outcome.ok()) return outcome;
  outcome = detach_now(*record);
  if (outcome.ok()) {
    *address = record->device;
    if (!record->is_device_foreign) add_memory(0, -static_cast<std::int64_t>(record->size_bytes));
    record->device = 0;
    record->has_device = record->is_device_foreign = false;
    record->state = UnifiedState::host_only;
    record->dirty.clear_all();
  }
  end_change(*record);
  return outcome;
}

Outcome UnifiedMemory::detach_now(UnifiedRecord& record) noexcept {
  Work work;
  work.use = UnifiedUse::device_read;
  work.size_bytes = record.size_bytes;
  work.units = record.dirty.all();
  work.stream = copies_;
  Outcome outcome = prepare(record, work);
  work.use = UnifiedUse::host_read;
  if (outcome.ok()) outcome = prepare(record, work);
  if (outcome.ok()) outcome = wait_for(record, kTouchesAll, nullptr);
  return outcome.ok() && gpu_->is_lost() ? Status::device_lost : outcome;
}

Outcome UnifiedMemory::mark_written(UnifiedHandle buffer, UnifiedSide side) noexcept {
  UnifiedRecord* record = nullptr;
  Outcome outcome = begin_change({.buffer = buffer}, &record);
  if (!outcome.ok()) return outcome;
  const bool is_host = side == UnifiedSide::host;
  bool& has_memory = is_host ? record->has_host : record->has_device;
  // What was adopted is there, used or not.
  has_memory = has_memory || (is_host ? record->is_host_foreign : record->is_device_foreign);
  if (!has_memory) outcome = Status::bad_argument;
  if (outcome.ok()) {
    record->is_blank = false;
    record->state = is_host ? UnifiedState::host_only : UnifiedState::device_only;
    if (record->has_host && record->has_device) {
      record->state = is_host ? UnifiedState::host_dirty : UnifiedState::device_dirty;
      record->dirty.set(record->dirty.all());
    }
  }
  end_change(*record);
  return outcome;
}

}  // namespace glebe::device
