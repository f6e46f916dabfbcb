// The functions of the system that are looked up by name, once, when the program or library is loaded.
//
// Looking one up takes the loader's lock. A thread that holds that lock (it starts, it ends, it loads a
// library) runs code of others, which may call malloc and wait for a lock of ours, or wait for the lock under
// which wine runs the callbacks of ending threads. So nothing is looked up later: neither in such a callback
// nor with a lock of ours. State: the table, written before there can be a second thread that reads it.
#include "platform/windows/system.h"

namespace glebe::os {

constinit SystemFunctions system_functions{};

namespace {

// Before the constructors of C++ objects: 101 is the first number that is not the compiler's own.
__attribute__((constructor(101))) void find_system_functions() noexcept {
  const LastErrorScope last_error_scope;
  SystemFunctions found{};
  found.wait_on_address = find_function<WaitOnAddressFunction>(L"kernelbase.dll", "WaitOnAddress");
  found.wake_by_address = find_function<WakeByAddressFunction>(L"kernelbase.dll", "WakeByAddressSingle");
  if (found.wait_on_address == nullptr || found.wake_by_address == nullptr) {
    found.wait_on_address = nullptr;
    found.wake_by_address = nullptr;
  }
  found.virtual_alloc2 = find_function<VirtualAlloc2Function>(L"kernelbase.dll", "VirtualAlloc2");
  found.process_is_ending = find_function<ProcessIsEndingFunction>(L"ntdll.dll", "RtlDllShutdownInProgress");
  found.is_wine = find_function<void (*)()>(L"ntdll.dll", "wine_get_version") != nullptr;
  system_functions = found;
}

}  // namespace

}  // namespace glebe::os
