// Sealed memfds. See platform/shared_memory.h.
#include "platform/shared_memory.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "platform/linux/system.h"
#include "platform/vm.h"
#include "src/base/bits.h"

namespace glebe::os {

namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;

std::byte* map(int descriptor, std::size_t size_bytes) noexcept {
  void* base = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  return base != MAP_FAILED ? static_cast<std::byte*>(base) : nullptr;
}

}  // namespace

SharedMemory make_shared_memory(std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  const std::size_t bytes = align_up(size_bytes, page_bytes());
  if (bytes < size_bytes || bytes == 0) return {};
  const auto descriptor =
      static_cast<int>(::syscall(SYS_memfd_create, "glebe-shared", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (descriptor < 0) return {};
  const bool has_size = ::ftruncate(descriptor, static_cast<off_t>(bytes)) == 0 &&
                        ::fcntl(descriptor, F_ADD_SEALS, kSeals | F_SEAL_SEAL) == 0;
  std::byte* base = has_size ? map(descriptor, bytes) : nullptr;
  if (base != nullptr) return {base, bytes, descriptor};
  ::close(descriptor);
  return {};
}

SharedMemory open_shared_memory(int descriptor, std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  const int seals = ::fcntl(descriptor, F_GET_SEALS);
  struct stat file;
  if (seals < 0 || (seals & kSeals) != kSeals || ::fstat(descriptor, &file) != 0) return {};
  const auto bytes = static_cast<std::size_t>(file.st_size);
  if (size_bytes == 0 || bytes < size_bytes) return {};
  std::byte* base = map(descriptor, bytes);
  if (base == nullptr) return {};
  return {base, bytes, -1};
}

void unmap_shared_memory(const SharedMemory& memory) noexcept {
  const ErrnoScope errno_scope;
  ::munmap(memory.base, memory.size_bytes);
}

}  // namespace glebe::os
