// Where the system has no way to take pages out (src/paging/pager.h): paging is off and says so.
#include "platform/process.h"
#include "src/base/text.h"
#include "src/paging/pager.h"

namespace glebe::paging {

PagerMode start_pager(const PagerOptions& options) noexcept {
  if (options.wish != PagerWish::off && options.say_what_is_missing) {
    char space[96];
    Text text(space);
    text.append("glebe: paging stays off: it needs Linux\n");
    os::write_error(text.c_str(), text.size());
  }
  return PagerMode::off;
}

PagerMode pager_mode() noexcept { return PagerMode::off; }

void keep_everything() noexcept {}

PagerStats pager_stats() noexcept { return {}; }

}  // namespace glebe::paging
