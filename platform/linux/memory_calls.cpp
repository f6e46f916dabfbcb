// mmap(2) and its relatives, as bare system calls.
#include "platform/memory_calls.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "platform/linux/system.h"

namespace glebe::os {
namespace {

template <class... Arguments>
long call(long number, Arguments... arguments) noexcept {
  const ErrnoScope errno_scope;
  const long answer = ::syscall(number, arguments...);
  return answer == -1 ? -static_cast<long>(errno) : answer;
}

}  // namespace

long map_call(const MapRequest& request) noexcept {
  return call(SYS_mmap, request.address, request.size_bytes, static_cast<long>(request.protection),
              static_cast<long>(request.flags), static_cast<long>(request.descriptor),
              static_cast<long>(request.offset));
}

long remap_call(const RemapRequest& request) noexcept {
  return call(SYS_mremap, request.address, request.old_bytes, request.new_bytes,
              static_cast<long>(request.flags), request.new_address);
}

int unmap_call(void* base, std::size_t size_bytes) noexcept {
  return static_cast<int>(call(SYS_munmap, base, size_bytes));
}

int protect_call(void* base, std::size_t size_bytes, int protection) noexcept {
  return static_cast<int>(call(SYS_mprotect, base, size_bytes, static_cast<long>(protection)));
}

int advise_call(void* base, std::size_t size_bytes, int advice) noexcept {
  return static_cast<int>(call(SYS_madvise, base, size_bytes, static_cast<long>(advice)));
}

}  // namespace glebe::os
