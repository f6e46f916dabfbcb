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
// lacks. Takes the loader's lock: see system.cpp for where that must not be.
template <class Function>
[[nodiscard]] Function find_function(const wchar_t* module_name, const char* name) noexcept {
  const HMODULE module = ::GetModuleHandleW(module_name);
  if (module == nullptr) return nullptr;
  return reinterpret_cast<Function>(reinterpret_cast<void*>(::GetProcAddress(module, name)));
}

using WaitOnAddressFunction = BOOL(WINAPI*)(volatile void*, void*, SIZE_T, DWORD);
using WakeByAddressFunction = void(WINAPI*)(void*);
using VirtualAlloc2Function = void*(WINAPI*)(HANDLE, void*, SIZE_T, ULONG, ULONG, MEM_EXTENDED_PARAMETER*,
                                             ULONG);
using ProcessIsEndingFunction = BOOLEAN(WINAPI*)();

// What was found when we were loaded; nullptr for what this version of the system lacks, and everywhere
// before that: an allocation by an even earlier constructor does without.
struct SystemFunctions {
  WaitOnAddressFunction wait_on_address = nullptr;  // both or none (Windows 8)
  WakeByAddressFunction wake_by_address = nullptr;
  VirtualAlloc2Function virtual_alloc2 = nullptr;  // Windows 10
  ProcessIsEndingFunction process_is_ending = nullptr;
  bool is_wine = false;
};
extern constinit SystemFunctions system_functions;

}  // namespace glebe::os
