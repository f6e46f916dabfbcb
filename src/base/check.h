// Checks that stay on in every build (CHECK) and checks for debug builds (ASSERT).
//
// A failed check is our own defect, never the user's: it reports where and stops the process. The report does
// not allocate, because the allocator itself may be what is broken. What the user did wrong is reported by
// src/heap/misuse.h; what the system refused travels as a value.
#pragma once

namespace glebe {

// Writes "glebe: internal error: <condition> at <file>:<line>" to standard error and aborts. Written in
// platform/<os>/process.cpp, because only the platform may talk to the system. Thread-safe.
[[noreturn]] void panic(const char* file, int line, const char* condition) noexcept;

}  // namespace glebe

#define CHECK(condition) \
  (__builtin_expect(!(condition), 0) ? ::glebe::panic(__FILE__, __LINE__, #condition) : static_cast<void>(0))

#ifdef NDEBUG
#define ASSERT(condition) static_cast<void>(0)
#else
#define ASSERT(condition) CHECK(condition)
#endif
