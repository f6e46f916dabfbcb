// userfaultfd(2), PAGEMAP_SCAN and /proc/self/statm. What the headers of older systems do not declare is
// declared here; whether the kernel has it is asked at run time.
#include "platform/fault.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <string_view>

#include "platform/linux/system.h"
#include "platform/memory_calls.h"
#include "platform/vm.h"
#include "src/base/text.h"

namespace glebe::os {
namespace {

constexpr std::uint64_t kFeatureMove = std::uint64_t{1} << 16;
constexpr unsigned long kNewDescriptor = _IO(0xAA, 0x00);  // USERFAULTFD_IOC_NEW

struct MoveRequest {
  std::uint64_t to, from, size_bytes, mode;
  std::int64_t moved;
};
// UFFDIO_MOVE_MODE_DONTWAKE and UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES
constexpr std::uint64_t kMoveWakesNobody = 1, kAllowHoles = 2;
constexpr unsigned long kMove = _IOWR(UFFDIO, 0x05, MoveRequest);

struct PoisonRequest {
  uffdio_range range;
  std::uint64_t mode;
  std::int64_t updated;
};
constexpr unsigned long kPoison = _IOWR(UFFDIO, 0x08, PoisonRequest);

struct ScanRequest {
  std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  std::uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct ScanRun {
  std::uint64_t start, end, categories;
};
constexpr unsigned long kScan = _IOWR('f', 16, ScanRequest);
constexpr std::uint64_t kIsFile = 1u << 2, kIsPresent = 1u << 3, kIsSwapped = 1u << 4, kIsZeroPage = 1u << 5;

constexpr int kAdvicePopulateWrite = 23;
std::uint64_t word(const void* address) { return reinterpret_cast<std::uintptr_t>(address); }

int open_descriptor() noexcept {
  const long direct = ::syscall(SYS_userfaultfd, O_CLOEXEC);
  if (direct >= 0 || errno == ENOSYS) return static_cast<int>(direct);
  const int device = ::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device < 0) return -1;
  const int made = ::ioctl(device, kNewDescriptor, O_CLOEXEC);
  ::close(device);
  return made;
}

template <class Request>
int control(int descriptor, unsigned long number, Request& request) noexcept {
  const ErrnoScope errno_scope;
  return ::ioctl(descriptor, number, &request) == 0 ? 0 : -errno;
}

bool advise(void* base, std::size_t size_bytes, int advice) noexcept {
  return advise_call(base, size_bytes, advice) == 0;
}

}  // namespace

FaultSupport UserFault::open() noexcept {
  const ErrnoScope errno_scope;
  const int descriptor = open_descriptor();
  if (descriptor < 0) {
    if (errno == EPERM || errno == EACCES || errno == ENOENT) return FaultSupport::no_permission;
    return errno == ENOSYS ? FaultSupport::not_built : FaultSupport::other;
  }
  uffdio_api api = {};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_THREAD_ID | kFeatureMove;
  if (::ioctl(descriptor, UFFDIO_API, &api) == 0) {
    descriptor_ = descriptor;
    return FaultSupport::full;
  }
  const int error = errno;
  ::close(descriptor);
  return error == EPERM ? FaultSupport::no_fork_event : FaultSupport::no_move;
}

void UserFault::close() noexcept {
  const ErrnoScope errno_scope;
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
}

void UserFault::make_blocking() const noexcept {
  const ErrnoScope errno_scope;
  ::fcntl(descriptor_, F_SETFL, 0);
}

int UserFault::watch(void* base, std::size_t size_bytes) const noexcept {
  uffdio_register request = {};
  request.range = {word(base), size_bytes};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  return control(descriptor_, UFFDIO_REGISTER, request);
}

int UserFault::unwatch(void* base, std::size_t size_bytes) const noexcept {
  uffdio_range range = {word(base), size_bytes};
  return control(descriptor_, UFFDIO_UNREGISTER, range);
}

long UserFault::move(void* to, void* from, std::size_t size_bytes, MoveHow how) const noexcept {
  const std::uint64_t mode =
      (how.with_holes ? kAllowHoles : 0) | (how.wake == Wake::later ? kMoveWakesNobody : 0);
  MoveRequest request = {word(to), word(from), size_bytes, mode, 0};
  const int result = control(descriptor_, kMove, request);
  return result == 0 || request.moved > 0 ? static_cast<long>(request.moved) : result;
}

int UserFault::copy(void* to, const void* from, std::size_t size_bytes, Wake wake) const noexcept {
  std::size_t done = 0;
  while (done < size_bytes) {
    uffdio_copy request = {};
    request.dst = word(to) + done;
    request.src = word(from) + done;
    request.len = size_bytes - done;
    request.mode = wake == Wake::later ? UFFDIO_COPY_MODE_DONTWAKE : 0;
    const int result = control(descriptor_, UFFDIO_COPY, request);
    if (result == 0) return 0;
    if (request.copy <= 0) return result;
    done += static_cast<std::size_t>(request.copy);
  }
  return 0;
}

int UserFault::zero(void* to, std::size_t size_bytes, Wake wake) const noexcept {
  uffdio_zeropage request = {};
  request.range = {word(to), size_bytes};
  request.mode = wake == Wake::later ? UFFDIO_ZEROPAGE_MODE_DONTWAKE : 0;
  return control(descriptor_, UFFDIO_ZEROPAGE, request);
}

int UserFault::poison(void* page, std::size_t size_bytes) const noexcept {
  PoisonRequest request = {{word(page), size_bytes}, 0, 0};
  return control(descriptor_, kPoison, request);
}

void UserFault::wake(void* base, std::size_t size_bytes) const noexcept {
  uffdio_range range = {word(base), size_bytes};
  static_cast<void>(control(descriptor_, UFFDIO_WAKE, range));
}

unsigned UserFault::read_events(FaultEvent* events, unsigned count) const noexcept {
  const ErrnoScope errno_scope;
  constexpr unsigned kMax = 16;
  uffd_msg messages[kMax];
  const long bytes = ::read(descriptor_, messages, (count < kMax ? count : kMax) * sizeof messages[0]);
  if (bytes <= 0) return 0;
  const auto got = static_cast<unsigned>(static_cast<std::size_t>(bytes) / sizeof messages[0]);
  for (unsigned i = 0; i < got; ++i) {
    const uffd_msg& message = messages[i];
    events[i] = {FaultEvent::Kind::other, false, 0, 0, -1};
    if (message.event == UFFD_EVENT_PAGEFAULT) {
      events[i].kind = FaultEvent::Kind::page_fault;
      events[i].address = message.arg.pagefault.address & ~std::uintptr_t{4095};
      events[i].thread = static_cast<int>(message.arg.pagefault.feat.ptid);
      events[i].is_write = (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0;
    } else if (message.event == UFFD_EVENT_FORK) {
      events[i].kind = FaultEvent::Kind::forked;
      events[i].child = static_cast<int>(message.arg.fork.ufd);
      // Only such a descriptor can be polled.
      ::fcntl(events[i].child, F_SETFL, O_NONBLOCK);
    }
  }
  return got;
}

bool UserFault::has_unread_fault() const noexcept {
  const ErrnoScope errno_scope;
  char path_space[64], content[256];
  Text path(path_space);
  path.append("/proc/thread-self/fdinfo/").append_unsigned(static_cast<unsigned>(descriptor_));
  if (read_system_file(path.c_str(), content, sizeof content) == 0) return false;
  constexpr std::string_view kKey = "pending:\t";
  const char* const at = std::strstr(content, kKey.data());
  return at != nullptr && at[kKey.size()] != '0';
}

bool UserFault::is_alive() const noexcept {
  // A range where nothing can be: the memory is looked for before the range is.
  uffdio_zeropage request = {};
  request.range = {4096, 4096};
  return control(descriptor_, UFFDIO_ZEROPAGE, request) != -ESRCH;
}

bool PageScan::open() noexcept {
  const ErrnoScope errno_scope;
  descriptor_ = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  return descriptor_ >= 0;
}

int PageScan::present(const Run& range, std::span<Run> runs, std::uintptr_t* scanned) const noexcept {
  constexpr unsigned kMax = 256;
  ScanRun found[kMax];
  ScanRequest request = {};
  request.size = sizeof request;
  request.start = range.begin;
  request.end = range.end;
  request.vec = word(found);
  request.vec_len = runs.size() < kMax ? runs.size() : kMax;
  request.category_mask = kIsPresent | kIsZeroPage | kIsFile;
  request.category_inverted = kIsZeroPage | kIsFile;
  request.return_mask = kIsPresent;
  const ErrnoScope errno_scope;
  const int result = ::ioctl(descriptor_, kScan, &request);
  *scanned = request.walk_end;
  for (int i = 0; i < result; ++i) runs[static_cast<unsigned>(i)] = {found[i].start, found[i].end};
  return result;
}

std::uint64_t PageScan::missing(const void* base, unsigned count) const noexcept {
  constexpr unsigned kMax = 64;
  const std::size_t page_size = page_bytes();
  ScanRun found[kMax / 2 + 1];  // runs do not touch each other
  ScanRequest request = {};
  request.size = sizeof request;
  request.start = word(base);
  request.end = request.start + (count < kMax ? count : kMax) * page_size;
  request.vec = word(found);
  request.vec_len = kMax / 2 + 1;
  request.category_mask = request.category_inverted = kIsPresent | kIsSwapped;  // neither of them
  request.return_mask = kIsPresent;
  const ErrnoScope errno_scope;
  const int result = ::ioctl(descriptor_, kScan, &request);
  std::uint64_t mask = 0;
  for (int i = 0; i < result; ++i) {
    for (std::uint64_t at = found[i].start; at < found[i].end; at += page_size) {
      mask |= std::uint64_t{1} << (at - request.start) / page_size;
    }
  }
  return mask;
}

bool ResidentMeter::open() noexcept {
  const ErrnoScope errno_scope;
  // By bare calls: to a sanitizer a number of this table is the same file as that number in the program's.
  descriptor_ =
      static_cast<int>(::syscall(SYS_openat, AT_FDCWD, "/proc/self/statm", O_RDONLY | O_CLOEXEC, 0));
  return descriptor_ >= 0;
}

std::size_t ResidentMeter::anonymous_bytes() const noexcept {
  const ErrnoScope errno_scope;
  char text[128];
  const long length = ::syscall(SYS_pread64, descriptor_, text, sizeof text - 1, 0L);
  if (length <= 0) return 0;
  text[length] = '\0';
  // size resident shared ...
  const char* const resident = field_at(text, 1);
  const char* const shared = field_at(text, 2);
  if (resident == nullptr || shared == nullptr) return 0;
  const std::size_t all = parse_limit(resident), others = parse_limit(shared);
  return all > others ? (all - others) * page_bytes() : 0;
}

bool unshare_pages(void* base, std::size_t size_bytes) noexcept {
  return advise(base, size_bytes, kAdvicePopulateWrite);
}
void unlock_memory(void* base, std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  ::munlock(base, size_bytes);
}
}  // namespace glebe::os
