// Virtual memory on Linux. A reservation is a PROT_NONE mapping without reserve accounting, so that it costs
// neither memory nor commit charge, under any overcommit policy. State: counters and two values read once; no
// lock.
//
// The calls go straight to the kernel (platform/memory_calls.h). Each may fail at any time: a hint that fails
// is forgotten, anything else is reported to the caller, nothing is retried without a bound.
#include "platform/vm.h"

#include <sys/auxv.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstring>

#include "platform/linux/system.h"
#include "platform/memory_calls.h"
#include "src/base/bits.h"

namespace glebe::os {
namespace {

// The kernel reports EAGAIN for a shortage that may pass at once; more patience than this is the caller's
// choice.
constexpr int kMaxTries = 3;
constexpr int kReserveFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

struct Counters {
  std::atomic<std::size_t> reserve{0}, commit{0}, decommit{0}, purge{0}, protect{0}, move{0}, advise{0};
};
constinit Counters counters;

constinit std::atomic<std::size_t> known_page_bytes{0};  // 0 until it was read
enum Answer : int { kUnknown, kNo, kYes };
constinit std::atomic<int> huge_on_advice{kUnknown};

void count(std::atomic<std::size_t>& counter) noexcept { counter.fetch_add(1, std::memory_order_relaxed); }

bool advise(void* base, std::size_t size_bytes, int advice) noexcept {
  for (int tries = 0; tries < kMaxTries; ++tries) {
    const int error = advise_call(base, size_bytes, advice);
    if (error == 0) return true;
    if (error != -EAGAIN) return false;
  }
  return false;
}

bool protect(void* base, std::size_t size_bytes, int protection) noexcept {
  for (int tries = 0; tries < kMaxTries; ++tries) {
    const int error = protect_call(base, size_bytes, protection);
    if (error == 0) return true;
    if (error != -EAGAIN) return false;
  }
  return false;
}

void* map_reserved(std::size_t size_bytes) noexcept {
  count(counters.reserve);
  const long base = map_call({nullptr, size_bytes, PROT_NONE, kReserveFlags, -1, 0});
  return is_failure(base) ? nullptr : reinterpret_cast<void*>(base);
}

// A failure leaves addresses mapped that nobody uses: a loss of address space, not of memory.
void unmap(std::uintptr_t base, std::size_t size_bytes) noexcept {
  if (size_bytes != 0) static_cast<void>(unmap_call(reinterpret_cast<void*>(base), size_bytes));
}

}  // namespace

std::size_t page_bytes() noexcept {
  std::size_t bytes = known_page_bytes.load(std::memory_order_relaxed);
  if (bytes == 0) {
    const ErrnoScope errno_scope;
    bytes = ::getauxval(AT_PAGESZ);
    if (bytes == 0) bytes = 4 * kKiB;
    known_page_bytes.store(bytes, std::memory_order_relaxed);
  }
  return bytes;
}

void* reserve(std::size_t size_bytes, std::size_t align_bytes) noexcept {
  const ErrnoScope errno_scope;
  void* first = map_reserved(size_bytes);
  if (first == nullptr || is_aligned(reinterpret_cast<std::uintptr_t>(first), align_bytes)) return first;
  unmap(reinterpret_cast<std::uintptr_t>(first), size_bytes);
  // Take enough for an aligned range wherever the kernel puts it, and give the two ends back.
  const std::size_t padded_bytes = size_bytes + align_bytes - page_bytes();
  if (padded_bytes < size_bytes) return nullptr;
  void* padded = map_reserved(padded_bytes);
  if (padded == nullptr) return nullptr;
  const auto begin = reinterpret_cast<std::uintptr_t>(padded);
  const std::uintptr_t aligned = align_up(begin, align_bytes);
  unmap(begin, aligned - begin);
  unmap(aligned + size_bytes, padded_bytes - size_bytes - (aligned - begin));
  return reinterpret_cast<void*>(aligned);
}

std::size_t reserve_cost_bytes(std::size_t) noexcept { return 0; }

void release(void* base, std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  if (unmap_call(base, size_bytes) == 0) return;
  // The kernel may be out of mappings. The addresses are lost, but the memory need not be.
  static_cast<void>(advise(base, size_bytes, MADV_DONTNEED));
}

bool commit(void* base, std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  count(counters.commit);
  return protect(base, size_bytes, PROT_READ | PROT_WRITE);
}

bool decommit(void* base, std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  count(counters.decommit);
  // Under vm.overcommit_memory=2 a writable private mapping stays charged when it is made PROT_NONE: only a
  // fresh mapping gives the charge back. MAP_FIXED replaces atomically, so no other thread can take the
  // addresses.
  return !is_failure(map_call({base, size_bytes, PROT_NONE, kReserveFlags | MAP_FIXED, -1, 0}));
}

bool purge(void* base, std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  count(counters.purge);
  return advise(base, size_bytes, MADV_DONTNEED);
}

bool protect_none(void* base, std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  count(counters.protect);
  return protect(base, size_bytes, PROT_NONE);
}

bool unprotect(void* base, std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  count(counters.protect);
  return protect(base, size_bytes, PROT_READ | PROT_WRITE);
}

// Two moves, by way of addresses that the kernel chooses. MREMAP_FIXED unmaps the destination before the
// kernel looks at the source (before Linux 6.17), so a direct move that fails (source in several mappings,
// commit limit) would leave a hole where another thread's mmap may land. The first move does everything that
// can be refused and touches neither hole nor destination: MREMAP_DONTUNMAP (Linux 5.7) keeps the source
// mapped. The second moves one whole mapping that nobody else knows.
bool move_pages(void* from, void* to, std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  count(counters.move);
  const long moved = remap_call({from, size_bytes, size_bytes, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr});
  if (is_failure(moved)) return false;
  auto* between = reinterpret_cast<void*>(moved);
  if (is_failure(remap_call({between, size_bytes, size_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to}))) {
    // Out of kernel memory. The source is still mapped and reads as zero: put its contents back. If the
    // kernel had already unmapped the destination, reserve it again; if not, this call fails and changes
    // nothing.
    std::memcpy(from, between, size_bytes);
    unmap(reinterpret_cast<std::uintptr_t>(between), size_bytes);
    static_cast<void>(map_call({to, size_bytes, PROT_NONE, kReserveFlags | MAP_FIXED_NOREPLACE, -1, 0}));
    return false;
  }
  // The source holds no memory any more. Without this it would only keep its access and its commit charge.
  if (!decommit(from, size_bytes)) static_cast<void>(protect(from, size_bytes, PROT_NONE));
  return true;
}

void advise_huge(void* base, std::size_t size_bytes, bool use_huge_pages) noexcept {
  const ErrnoScope errno_scope;
  count(counters.advise);
  static_cast<void>(advise(base, size_bytes, use_huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
}

bool huge_pages_on_advice() noexcept {
  int answer = huge_on_advice.load(std::memory_order_relaxed);
  if (answer == kUnknown) {
    const ErrnoScope errno_scope;
    char text[128];
    const std::size_t length =
        read_system_file("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof text);
    answer = length != 0 && std::strstr(text, "[madvise]") != nullptr ? kYes : kNo;
    huge_on_advice.store(answer, std::memory_order_relaxed);
  }
  return answer == kYes;
}

std::size_t resident_bytes(const void* base, std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  unsigned char in_core[4 * kKiB];
  const std::size_t page = page_bytes();
  const auto begin = reinterpret_cast<std::uintptr_t>(base);
  std::size_t pages = 0;
  for (std::size_t done = 0; done < size_bytes;) {
    const std::size_t step =
        size_bytes - done < sizeof in_core * page ? size_bytes - done : sizeof in_core * page;
    if (::mincore(reinterpret_cast<void*>(begin + done), step, in_core) != 0) return 0;
    for (std::size_t i = 0; i < step / page; ++i) pages += in_core[i] & 1u;
    done += step;
  }
  return pages * page;
}

VmCalls vm_calls() noexcept {
  constexpr auto kOrder = std::memory_order_relaxed;
  return {counters.reserve.load(kOrder), counters.commit.load(kOrder),  counters.decommit.load(kOrder),
          counters.purge.load(kOrder),   counters.protect.load(kOrder), counters.move.load(kOrder),
          counters.advise.load(kOrder)};
}

}  // namespace glebe::os
