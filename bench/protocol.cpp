// The child's end of the pipe. Nothing here may allocate: it runs while the allocator under test is broken.
#include "bench/protocol.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "bench/table.h"

namespace torture {

void send_message(const Message& message) noexcept {
  const ssize_t written = ::write(kResultDescriptor, &message, sizeof message);
  if (written != static_cast<ssize_t>(sizeof message)) ::_exit(kExitVerification);
}

void fail(const char* format, ...) noexcept {
  Message message;
  std::memset(&message, 0, sizeof message);
  message.kind = MessageKind::kFailure;
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message.text, sizeof message.text, format, arguments);
  va_end(arguments);
  send_message(message);
  ::_exit(kExitVerification);
}

void* map_pages(std::size_t size_bytes) {
  void* pages = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) fail("the kernel refused %zu bytes for a table of the bench", size_bytes);
  return pages;
}

void unmap_pages(void* address, std::size_t size_bytes) noexcept { ::munmap(address, size_bytes); }

}  // namespace torture
