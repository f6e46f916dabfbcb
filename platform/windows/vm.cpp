// Virtual memory on Windows: one VirtualAlloc reservation per reserve(), whose pages are committed and
// decommitted. Only what every version has is required; alignment by VirtualAlloc2 is asked for at run time.
// State: counters and one value read once; no lock.
#include "platform/vm.h"

#include <atomic>
#include <cstdint>

#include "platform/windows/system.h"
#include "src/base/bits.h"
#include "src/base/check.h"

namespace glebe::os {
namespace {

constexpr std::size_t kGranularity = 64 * kKiB;  // what VirtualAlloc aligns to, on every version of Windows
constexpr int kMaxReserveTries = 64;
constexpr DWORD kMaxCommitTries = 16;
// From here on VirtualAlloc2 of wine 8.0 ends the process with a failed assertion, depending on the size.
constexpr std::size_t kWineAlignEnd = 4 * kGiB;

struct Counters {
  std::atomic<std::size_t> reserve{0}, commit{0}, decommit{0}, purge{0}, protect{0};
};
constinit Counters counters;

constinit std::atomic<std::size_t> known_page_bytes{0};  // 0 until it was read

void count(std::atomic<std::size_t>& counter) noexcept { counter.fetch_add(1, std::memory_order_relaxed); }

void* reserve_at(void* address, std::size_t size_bytes) noexcept {
  count(counters.reserve);
  return ::VirtualAlloc(address, size_bytes, MEM_RESERVE, PAGE_NOACCESS);
}

void* reserve_by_requirement(std::size_t size_bytes, std::size_t align_bytes) noexcept {
  const VirtualAlloc2Function function = system_functions.virtual_alloc2;
  if (function == nullptr || (system_functions.is_wine && align_bytes >= kWineAlignEnd)) return nullptr;
  MEM_ADDRESS_REQUIREMENTS requirements{};
  requirements.Alignment = align_bytes;
  MEM_EXTENDED_PARAMETER parameter{};
  parameter.Type = MemExtendedParameterAddressRequirements;
  parameter.Pointer = &requirements;
  count(counters.reserve);
  return function(::GetCurrentProcess(), nullptr, size_bytes, MEM_RESERVE, PAGE_NOACCESS, &parameter, 1);
}

// A reservation cannot be trimmed. So find room for an aligned range, leave it, and come back for the aligned
// part; another thread may be faster, hence the loop.
void* reserve_by_search(std::size_t size_bytes, std::size_t align_bytes) noexcept {
  const std::size_t padded_bytes = size_bytes + align_bytes - kGranularity;
  if (padded_bytes < size_bytes) return nullptr;
  for (int tries = 0; tries < kMaxReserveTries; ++tries) {
    void* padded = reserve_at(nullptr, padded_bytes);
    if (padded == nullptr) return nullptr;
    const std::uintptr_t aligned = align_up(reinterpret_cast<std::uintptr_t>(padded), align_bytes);
    static_cast<void>(::VirtualFree(padded, 0, MEM_RELEASE));
    void* base = reserve_at(reinterpret_cast<void*>(aligned), size_bytes);
    if (base != nullptr) return base;
  }
  return nullptr;
}

bool commit_pages(void* base, std::size_t size_bytes) noexcept {
  return ::VirtualAlloc(base, size_bytes, MEM_COMMIT, PAGE_READWRITE) != nullptr;
}

bool protect(void* base, std::size_t size_bytes, DWORD protection) noexcept {
  const LastErrorScope last_error_scope;
  count(counters.protect);
  DWORD before = 0;
  return ::VirtualProtect(base, size_bytes, protection, &before) != 0;
}

}  // namespace

std::size_t page_bytes() noexcept {
  std::size_t bytes = known_page_bytes.load(std::memory_order_relaxed);
  if (bytes == 0) {
    SYSTEM_INFO info{};
    ::GetSystemInfo(&info);
    bytes = info.dwPageSize;
    known_page_bytes.store(bytes, std::memory_order_relaxed);
  }
  return bytes;
}

void* reserve(std::size_t size_bytes, std::size_t align_bytes) noexcept {
  const LastErrorScope last_error_scope;
  if (align_bytes <= kGranularity) return reserve_at(nullptr, size_bytes);
  void* base = reserve_by_requirement(size_bytes, align_bytes);
  return base != nullptr ? base : reserve_by_search(size_bytes, align_bytes);
}

// Wine notes the protection of every page in a byte, from the reservation on, and writes them all.
std::size_t reserve_cost_bytes(std::size_t size_bytes) noexcept {
  return system_functions.is_wine ? size_bytes / page_bytes() : 0;
}

void release(void* base, std::size_t) noexcept {
  const LastErrorScope last_error_scope;
  static_cast<void>(::VirtualFree(base, 0, MEM_RELEASE));
}

bool commit(void* base, std::size_t size_bytes) noexcept {
  const LastErrorScope last_error_scope;
  count(counters.commit);
  return commit_pages(base, size_bytes);
}

bool decommit(void* base, std::size_t size_bytes) noexcept {
  const LastErrorScope last_error_scope;
  count(counters.decommit);
  return ::VirtualFree(base, size_bytes, MEM_DECOMMIT) != 0;
}

// MEM_RESET would leave the old bytes in place until memory is short: only fresh pages read as zero.
bool purge(void* base, std::size_t size_bytes) noexcept {
  const LastErrorScope last_error_scope;
  count(counters.purge);
  if (::VirtualFree(base, size_bytes, MEM_DECOMMIT) == 0) return false;
  // The charge was ours a moment ago. Somebody may have taken it: wait a little for some to come back, 120 ms
  // in all. After that the range cannot be what the caller takes it for, and going on would be a crash
  // elsewhere.
  for (DWORD tries = 0; tries < kMaxCommitTries; ++tries) {
    if (commit_pages(base, size_bytes)) return true;
    ::Sleep(tries);
  }
  panic(__FILE__, __LINE__, "the commit charge of purged memory was taken by others");
}

bool protect_none(void* base, std::size_t size_bytes) noexcept {
  return protect(base, size_bytes, PAGE_NOACCESS);
}

bool unprotect(void* base, std::size_t size_bytes) noexcept {
  return protect(base, size_bytes, PAGE_READWRITE);
}

// Private pages cannot change their address on Windows.
bool move_pages(void*, void*, std::size_t) noexcept { return false; }

// Large pages of Windows need a privilege and are chosen when a range is reserved: there is nothing to
// advise.
void advise_huge(void*, std::size_t, bool) noexcept {}

bool huge_pages_on_advice() noexcept { return false; }

std::size_t resident_bytes(const void* base, std::size_t size_bytes) noexcept {
  const LastErrorScope last_error_scope;
  constexpr std::size_t kPages = 256;
  PSAPI_WORKING_SET_EX_INFORMATION pages[kPages];
  const std::size_t page = page_bytes();
  const auto begin = reinterpret_cast<std::uintptr_t>(base);
  std::size_t valid = 0;
  for (std::size_t done = 0; done < size_bytes;) {
    std::size_t count_now = 0;
    for (; count_now < kPages && done < size_bytes; ++count_now, done += page) {
      pages[count_now] = {};
      pages[count_now].VirtualAddress = reinterpret_cast<void*>(begin + done);
    }
    const auto bytes = static_cast<DWORD>(count_now * sizeof pages[0]);
    if (::K32QueryWorkingSetEx(::GetCurrentProcess(), pages, bytes) == 0) return 0;
    for (std::size_t i = 0; i < count_now; ++i) valid += pages[i].VirtualAttributes.Flags & 1u;
  }
  return valid * page;
}

VmCalls vm_calls() noexcept {
  constexpr auto kOrder = std::memory_order_relaxed;
  return {counters.reserve.load(kOrder),
          counters.commit.load(kOrder),
          counters.decommit.load(kOrder),
          counters.purge.load(kOrder),
          counters.protect.load(kOrder),
          0,
          0};
}

}  // namespace glebe::os
