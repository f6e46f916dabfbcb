// The process on Windows: environment, standard error, clocks, entropy, figures and limits, and the last
// words of panic(). State: one function of the system, looked up once.
#include "platform/process.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "platform/windows/system.h"
#include "src/base/check.h"
#include "src/base/text.h"

namespace glebe {

void panic(const char* file, int line, const char* condition) noexcept {
  // One write, so that messages of several threads do not mix.
  char buffer[512];
  Text text(buffer);
  text.append("glebe: internal error: ").append(condition).append(" at ").append(file).append(":");
  text.append_signed(line).append("\n");
  os::write_error(text.c_str(), text.size());
  os::abort_process();
}

}  // namespace glebe

namespace glebe::os {
namespace {

constexpr UINT kAbortStatus = 3;  // what abort() of the C library exits with
constexpr std::uint64_t kNsPerSecond = 1'000'000'000;

using RandomFunction = BOOLEAN(WINAPI*)(void*, ULONG);
constinit std::atomic<RandomFunction> random_function{nullptr};

// RtlGenRandom, whose exported name this is. The library is loaded here, because linking to it would make
// every program that uses the allocator depend on it.
RandomFunction find_random_function() noexcept {
  RandomFunction function = random_function.load(std::memory_order_acquire);
  if (function != nullptr) return function;
  if (::LoadLibraryW(L"advapi32.dll") == nullptr) return nullptr;
  function = find_function<RandomFunction>(L"advapi32.dll", "SystemFunction036");
  random_function.store(function, std::memory_order_release);
  return function;
}

// The limit of the job that this process is in, the smaller of the two kinds.
std::size_t job_memory_limit() noexcept {
  JOBOBJECT_EXTENDED_LIMIT_INFORMATION info{};
  if (::QueryInformationJobObject(nullptr, JobObjectExtendedLimitInformation, &info, sizeof info, nullptr) ==
      0) {
    return SIZE_MAX;
  }
  const DWORD flags = info.BasicLimitInformation.LimitFlags;
  std::size_t limit = SIZE_MAX;
  if ((flags & JOB_OBJECT_LIMIT_JOB_MEMORY) != 0) limit = info.JobMemoryLimit;
  const bool has_process_limit = (flags & JOB_OBJECT_LIMIT_PROCESS_MEMORY) != 0;
  return has_process_limit && info.ProcessMemoryLimit < limit ? info.ProcessMemoryLimit : limit;
}

}  // namespace

// The copy of the environment that the C library made at the start of the program: the system has no pointers
// of its own to give. Names are compared with regard to case.
const char* environment(const char* name) noexcept {
  char** entries = _environ;
  if (entries == nullptr) return nullptr;
  const std::size_t length = std::strlen(name);
  for (; *entries != nullptr; ++entries) {
    if (std::strncmp(*entries, name, length) == 0 && (*entries)[length] == '=') return *entries + length + 1;
  }
  return nullptr;
}

void write_error(const char* text, std::size_t size_bytes) noexcept {
  const LastErrorScope last_error_scope;
  const HANDLE handle = ::GetStdHandle(STD_ERROR_HANDLE);
  while (size_bytes != 0) {
    const DWORD step = size_bytes < MAXLONG ? static_cast<DWORD>(size_bytes) : MAXLONG;
    DWORD written = 0;
    if (::WriteFile(handle, text, step, &written, nullptr) == 0 || written == 0) return;
    text += written;
    size_bytes -= written;
  }
}

// abort() of msvcrt writes through stdio and may open a window.
void abort_process() noexcept {
  ::TerminateProcess(::GetCurrentProcess(), kAbortStatus);
  __builtin_trap();
}

std::uint64_t clock_coarse_ms() noexcept { return ::GetTickCount64(); }

std::uint64_t clock_fine_ns() noexcept {
  LARGE_INTEGER now{}, per_second{};
  ::QueryPerformanceCounter(&now);
  ::QueryPerformanceFrequency(&per_second);
  const auto ticks = static_cast<std::uint64_t>(now.QuadPart);
  const auto frequency = static_cast<std::uint64_t>(per_second.QuadPart);
  // In two parts, because the product of a long time and 10^9 does not fit.
  return ticks / frequency * kNsPerSecond + ticks % frequency * kNsPerSecond / frequency;
}

std::uint64_t entropy() noexcept {
  const LastErrorScope last_error_scope;
  std::uint64_t value = 0;
  const RandomFunction function = find_random_function();
  if (function != nullptr && function(&value, sizeof value) != 0) return value;
  value = clock_fine_ns() ^ (process_id() << 32) ^ reinterpret_cast<std::uintptr_t>(&value);
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;  // the finaliser of splitmix64
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

ProcessMemory process_memory() noexcept {
  const LastErrorScope last_error_scope;
  ProcessMemory result{};
  PROCESS_MEMORY_COUNTERS counters{};
  if (::K32GetProcessMemoryInfo(::GetCurrentProcess(), &counters, sizeof counters) != 0) {
    result.resident = counters.WorkingSetSize;
    result.resident_peak = counters.PeakWorkingSetSize;
    result.minor_faults = counters.PageFaultCount;  // of both kinds: the system does not tell them apart
  }
  MEMORYSTATUSEX status{};
  status.dwLength = sizeof status;
  if (::GlobalMemoryStatusEx(&status) != 0)
    result.virtual_size = status.ullTotalVirtual - status.ullAvailVirtual;
  return result;
}

std::size_t address_space_limit() noexcept { return SIZE_MAX; }

MemoryLimits memory_limits() noexcept {
  const LastErrorScope last_error_scope;
  // Windows charges every committed page in full.
  MemoryLimits result{SIZE_MAX, job_memory_limit(), SIZE_MAX, true};
  MEMORYSTATUSEX status{};
  status.dwLength = sizeof status;
  if (::GlobalMemoryStatusEx(&status) != 0) result.physical = static_cast<std::size_t>(status.ullTotalPhys);
  return result;
}

std::uint64_t process_id() noexcept { return ::GetCurrentProcessId(); }

}  // namespace glebe::os
