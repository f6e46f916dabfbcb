// mlockall(2) of a process whose heap is paged (preload library only). The kernel would fill the pager's
// empty tables with memory, and touch every page at once; so pages are locked as they are touched
// (MCL_ONFAULT), the tables are not, and what is out is brought back. With paging off this is the system call
// and nothing else.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/paging/mapped_zone.h"
#include "src/paging/pager.h"

#if !defined(MCL_ONFAULT)
#define MCL_ONFAULT 4
#endif

extern "C" __attribute__((visibility("default"))) int mlockall(int flags) noexcept {
  const bool is_paged = glebe::paging::pager_mode() == glebe::paging::PagerMode::uffd;
  const long result = ::syscall(SYS_mlockall, is_paged ? flags | MCL_ONFAULT : flags);
  if (result == 0 && (flags & MCL_FUTURE) != 0) glebe::paging::close_mapped_zone();
  if (result == 0 && is_paged && (flags & MCL_CURRENT) != 0) glebe::paging::keep_everything();
  return static_cast<int>(result);
}
