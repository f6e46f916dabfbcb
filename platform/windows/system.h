// What the Windows files of this folder share. Private to platform/windows. Nothing here allocates;
// thread-safe.
#pragma once

#define WIN32_LEAN_AND_MEAN
// The other headers need the first one.
// clang-format off
#include <windows.h>
#include <psapi.h>
#include <winioctl.h>
// clang-format on

namespace glebe::os {

// Puts the last error back when the scope ends. Even TlsGetValue() changes it, and our callers run in places
// where programs do not expect that. errno is never touched: nothing of the C library that sets it is called.
class LastErrorScope {
 public:
  LastErrorScope() noexcept : saved_(::GetLastError()) {}
  ~LastErrorScope() { ::SetLastError(saved_); }
  LastErrorScope(const LastErrorScope&) = delete;
  LastErrorScope& operator=(const LastErrorScope&) = delete;

 private:
  DWORD saved_;
};

// A function that not every version of the system has, in a module that is always loaded; nullptr where it
// lacks.
template <class Function>
[[nodiscard]] Function find_function(const wchar_t* module_name, const char* name) noexcept {
  const HMODULE module = ::GetModuleHandleW(module_name);
  if (module == nullptr) return nullptr;
  return reinterpret_cast<Function>(reinterpret_cast<void*>(::GetProcAddress(module, name)));
}

}  // namespace glebe::os
