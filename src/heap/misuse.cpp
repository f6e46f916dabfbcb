#include "src/heap/misuse.h"

#include <atomic>

#include "platform/process.h"
#include "src/base/text.h"

namespace glebe::heap {

constinit MisuseAction misuse_action = MisuseAction::abort;

namespace {

constinit std::atomic<std::size_t> counts[kMisuseKinds];

const char* describe(Misuse kind) {
  switch (kind) {
    case Misuse::double_free:
      return "double free of ";
    case Misuse::interior_pointer:
      return "free of a pointer that is not the start of a block: ";
    case Misuse::foreign_pointer:
      return "free of a pointer that glebe did not allocate: ";
    case Misuse::size_mismatch:
      return "sized free with a size that does not fit the block ";
    case Misuse::write_after_free:
      return "write after free to ";
    case Misuse::bad_heap:
      return "use of a heap that does not exist: ";
  }
  return "misuse of ";
}

}  // namespace

void report_misuse(Misuse kind, const void* address, std::size_t size_bytes) noexcept {
  counts[static_cast<unsigned>(kind)].fetch_add(1, std::memory_order_relaxed);
  if (misuse_action == MisuseAction::ignore) return;
  char line[256];
  Text text(line);
  text.append("glebe: ").append(describe(kind)).append_address(address);
  if (size_bytes != 0) text.append(", in a block of ").append_unsigned(size_bytes).append(" bytes");
  text.append(misuse_action == MisuseAction::abort
                  ? " (aborting; GLEBE_OPTIONS=on_misuse=warn goes on without freeing it)\n"
                  : " (nothing was freed)\n");
  os::write_error(line, text.size());
  if (misuse_action == MisuseAction::abort) os::abort_process();
}

std::size_t misuse_count(Misuse kind) noexcept {
  return counts[static_cast<unsigned>(kind)].load(std::memory_order_relaxed);
}

}  // namespace glebe::heap
