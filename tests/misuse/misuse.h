// Shared by the misuse programs. Each program commits one kind of error on purpose: its argument chooses the
// variant, it prints the pointer that the report must name, commits the error, goes on allocating long enough
// for a late detection, checks that the heap is sound and prints "survived". The driver judges by exit status
// and message.
#pragma once
#include <malloc.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace misuse {

// Blocks that wander through the caches of a size, so that what is cached is flushed to the store below it.
constexpr std::size_t kFlushBlocks = 300;

template <class T>
T* opaque(T* pointer) {
  asm volatile("" : "+r"(pointer) : : "memory");
  return pointer;
}

inline int variant(int argc, char** argv) { return argc > 1 ? std::atoi(argv[1]) : 0; }

inline void announce(const void* pointer) {
  char text[64];
  const int length =
      std::snprintf(text, sizeof text, "pointer 0x%zx\n", reinterpret_cast<std::uintptr_t>(pointer));
  if (write(STDOUT_FILENO, text, static_cast<std::size_t>(length)) < 0) std::_Exit(9);
}

// Takes blocks of this size and frees them again: 300 of them, or 3 where 300 would not fit into memory.
inline void flush(std::size_t size) {
  static void* blocks[kFlushBlocks];
  const std::size_t count = size > 1'000'000 ? 3 : kFlushBlocks;
  for (std::size_t i = 0; i < count; ++i) blocks[i] = opaque(std::malloc(size));
  for (std::size_t i = 0; i < count; ++i) std::free(blocks[i]);
}

// After a survived error no block may be handed out twice.
inline bool heap_is_sound(std::size_t size) {
  static unsigned char* blocks[kFlushBlocks];
  const std::size_t count = size > 1'000'000 ? 3 : kFlushBlocks;
  for (std::size_t i = 0; i < count; ++i) {
    blocks[i] = static_cast<unsigned char*>(opaque(std::malloc(size)));
    if (blocks[i] == nullptr) return false;
    std::memcpy(blocks[i], &i, size < sizeof i ? size : sizeof i);
  }
  bool sound = true;
  for (std::size_t i = 0; i < count; ++i) {
    sound = sound && std::memcmp(blocks[i], &i, size < sizeof i ? size : sizeof i) == 0;
  }
  for (std::size_t i = 0; i < count; ++i) std::free(blocks[i]);
  return sound;
}

// An error may be found as late as the batch with the block returns to the store, which the trim makes sure
// of.
inline int survived(std::size_t size) {
  flush(size);
  malloc_trim(0);
  flush(size);
  const bool sound = heap_is_sound(size);
  const char* text = sound ? "survived\n" : "damaged\n";
  if (write(STDOUT_FILENO, text, std::strlen(text)) < 0) std::_Exit(9);
  return sound ? 0 : 3;
}

}  // namespace misuse
