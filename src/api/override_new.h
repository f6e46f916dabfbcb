// What operator new needs from files that are built differently or not always (namespace glebe::api).
#pragma once

namespace glebe::api {

// Calls the handler. False when it threw. Built with exceptions (override_catch.cpp).
[[nodiscard]] bool handler_returns(void (*handler)()) noexcept;

// The address of a function in a C++ runtime that was loaded by dlopen, or nullptr. Only in the preload
// library (preload.cpp): elsewhere the name itself is null.
[[gnu::weak]] void* find_in_runtime(const char* name) noexcept;

}  // namespace glebe::api
