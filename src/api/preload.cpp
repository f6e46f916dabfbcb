// What only the preload library has: the report at exit, and the way to a C++ runtime that came by dlopen.
// Linux only.
#include <dlfcn.h>
#include <glebe/glebe.h>

#include <string_view>

#include "platform/file.h"
#include "platform/process.h"
#include "src/api/options.h"
#include "src/api/override_new.h"
#include "src/base/text.h"
#include "src/observe/observe.h"
#include "src/paging/pager.h"

namespace glebe::api {

// Only a runtime that is loaded already; nothing is loaded here. It then stays loaded.
void* find_in_runtime(const char* name) noexcept {
  for (const char* library : {"libstdc++.so.6", "libc++.so.1"}) {
    void* handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    if (handle != nullptr) return dlsym(handle, name);
  }
  return nullptr;
}

}  // namespace glebe::api

namespace {

namespace api = glebe::api;

// Before main(), as early as the loader lets us: what the program allocates from here on can be paged out.
[[gnu::constructor]] void start_paging() noexcept {
  api::ensure_configured();
  const api::Options& options = api::current_options();
  if (options.paging == 0) return;
  glebe::paging::PagerOptions pager;
  pager.wish = static_cast<glebe::paging::PagerWish>(options.paging);
  if ((options.memory & api::kShareBit) != 0) {
    pager.budget_share = static_cast<std::uint32_t>(options.memory & ~api::kShareBit);
  } else {
    pager.budget_bytes = static_cast<std::size_t>(options.memory);
  }
  pager.victim = static_cast<glebe::paging::VictimKind>(options.page_victim);
  pager.directory = api::text_of(options.page_directory);
  pager.file_limit_bytes = options.page_file_limit;
  pager.codec = static_cast<glebe::paging::Codec>(options.page_codec);
  pager.direct_io = options.page_direct_io != 0;
  glebe::paging::start_pager(pager);
}

// The name with every %p replaced by the process id. False: too long.
bool expand_name(const char* name, glebe::Text& to) noexcept {
  for (const char* at = name; *at != '\0'; ++at) {
    if (at[0] == '%' && at[1] == 'p') {
      to.append_unsigned(glebe::os::process_id());
      ++at;
    } else {
      to.append(std::string_view(at, 1));
    }
  }
  return !to.is_truncated();
}

void write_stats_file(const char* name) noexcept {
  char space[4096];
  glebe::Text path(space);
  glebe::os::File file;
  if (expand_name(name, path)) file = glebe::os::File::create(path.c_str());
  if (!file.is_open()) {
    constexpr std::string_view kMessage = "glebe: the file of the option stats_file cannot be written\n";
    return glebe::os::write_error(kMessage.data(), kMessage.size());
  }
  struct Place {
    glebe::os::File* file;
    std::uint64_t offset;
  } place = {&file, 0};
  glebe::observe::Snapshot snapshot = {};
  glebe::observe::take_snapshot(snapshot);
  const auto append = [](void* context, std::string_view text) {
    Place& to = *static_cast<Place*>(context);
    static_cast<void>(to.file->write_at(to.offset, text.data(), text.size()));
    to.offset += text.size();
  };
  glebe::observe::write_json(snapshot, glebe_version(), {append, &place});
}

// Runs at exit, after the program's own destructors: the blocks it reports as live are those that were never
// freed and those of other threads. Nothing is torn down.
[[gnu::destructor]] void report_at_exit() noexcept {
  glebe::api::ensure_configured();
  if (glebe::api::current_options().stats != 0) glebe_stats_print();
  if (const char* name = api::text_of(api::current_options().stats_file)) write_stats_file(name);
}

}  // namespace
