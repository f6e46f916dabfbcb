// What a program does to pages of its own by mmap(2), munmap(2) and madvise(2), when the pager knows these
// pages (namespace glebe::paging). Of the heap too: a program may call madvise on a block.
//
// Ranges are whole pages inside the pager's table. Threads of the program call this; no function reads what a
// page held, except keep_pages(), which waits for it. Answers are 0 or -errno.
#pragma once

#include <cstddef>

namespace glebe::paging {

// Whether both ends of the range are pages that the pager knows.
[[nodiscard]] bool is_pageable(const void* base, std::size_t size_bytes) noexcept;

// A new anonymous private mapping takes the place of the pages; what was out is dropped. `flags` are those of
// mmap(2) without MAP_FIXED.
[[nodiscard]] int replace_pages(void* base, std::size_t size_bytes, int protection, int flags) noexcept;

// madvise(2) with an advice that throws the contents away: what is out is dropped.
[[nodiscard]] int discard_pages(void* base, std::size_t size_bytes, int advice) noexcept;

// Something that is not ours to page lies there now: what was out is forgotten, and nothing goes out.
void forget_pages(void* base, std::size_t size_bytes) noexcept;

// Brings all of it back; afterwards none of these pages goes out until they are replaced. The range may have
// no access for a moment longer than before, and is readable meanwhile.
[[nodiscard]] int keep_pages(void* base, std::size_t size_bytes) noexcept;

}  // namespace glebe::paging
