// The end of a program whose threads all end by themselves (namespace glebe::paging). Private to the pager.
//
// The C library ends a process when its last thread returns, as if that thread called exit(0)
// (pthread_exit(3)). It counts the pager's threads too, so with a pager this never happens. A thread of ours
// that shares the program's descriptors waits to make that call; the evictor tells it when.
#pragma once

#include <cstdint>

namespace glebe::paging {

// Before the calling thread takes descriptors of its own. False: no thread is left.
[[nodiscard]] bool start_last_thread() noexcept;
// There will be no pager.
void stop_last_thread() noexcept;
// With them. False: /proc/self/stat cannot be read.
[[nodiscard]] bool open_thread_watch() noexcept;
// Once in a while, by one thread that shares the descriptors of open_thread_watch(). Looks every 50 ms.
void watch_for_last_thread(std::uint64_t now_ms) noexcept;

}  // namespace glebe::paging
