// Catches what a new-handler throws, for the forms of operator new that never throw. The only file of the
// library that is built with -fexceptions.
//
// The references to the C++ runtime are weak, so that a process without one needs none. The personality
// routine is then null, and the unwinder passes over this frame: without a runtime nothing was thrown. Where
// a runtime came by dlopen the exception is not caught and reaches the caller.
#include "src/api/override_new.h"

// clang refers to std::terminate for a noexcept function.
__asm__(".weak __gxx_personality_v0\n"
        ".weak __cxa_begin_catch\n"
        ".weak __cxa_end_catch\n"
        ".weak _ZSt9terminatev\n");

namespace glebe::api {

bool handler_returns(void (*handler)()) noexcept {
  try {
    handler();
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace glebe::api
