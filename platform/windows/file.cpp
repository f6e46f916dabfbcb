// Files on Windows. The handle is synchronous; every call names its offset, so threads share no position.
// Paths are in the code page of the process. Nothing here allocates; errno and the last error are preserved.
#include "platform/file.h"

#include <cstring>

#include "platform/process.h"
#include "platform/windows/system.h"

namespace glebe::os {
namespace {

constexpr int kMaxNames = 16;
constexpr std::size_t kMaxStep = std::size_t{1} << 30;  // a count of ReadFile has 32 bits
constexpr DWORD kShareAll = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;

HANDLE handle_of(std::intptr_t handle) noexcept { return reinterpret_cast<HANDLE>(handle); }

// Disposition and attributes as CreateFile takes them. INVALID_HANDLE_VALUE is File::kClosed.
struct Opening {
  DWORD access, disposition, attributes;
};
std::intptr_t open_path(const char* path, const Opening& opening) noexcept {
  const HANDLE handle = ::CreateFileA(path, opening.access, kShareAll, nullptr, opening.disposition,
                                      opening.attributes, nullptr);
  return reinterpret_cast<std::intptr_t>(handle);
}

// Only the storage of a sparse file comes back. Not every file system has them: then holes are refused later.
void make_sparse(std::intptr_t handle) noexcept {
  DWORD ignored = 0;
  static_cast<void>(
      ::DeviceIoControl(handle_of(handle), FSCTL_SET_SPARSE, nullptr, 0, nullptr, 0, &ignored, nullptr));
}

// Calls `step(position, done, size)`, which moves up to `size` bytes and returns how many, until all are
// moved.
template <class Step>
bool move_all(std::uint64_t offset, std::size_t size_bytes, Step step) noexcept {
  if (offset > INT64_MAX || size_bytes > INT64_MAX - offset) return false;
  for (std::size_t done = 0; done < size_bytes;) {
    const std::size_t left = size_bytes - done;
    OVERLAPPED position{};
    position.Offset = static_cast<DWORD>(offset + done);
    position.OffsetHigh = static_cast<DWORD>((offset + done) >> 32);
    const DWORD count = step(&position, done, static_cast<DWORD>(left < kMaxStep ? left : kMaxStep));
    if (count == 0) return false;
    done += count;
  }
  return true;
}

FILE_STANDARD_INFO sizes_of(std::intptr_t handle) noexcept {
  FILE_STANDARD_INFO info{};
  static_cast<void>(::GetFileInformationByHandleEx(handle_of(handle), FileStandardInfo, &info, sizeof info));
  return info;
}

}  // namespace

File::~File() { close(); }

File::File(File&& other) noexcept : handle_(other.handle_) { other.handle_ = kClosed; }

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    close();
    handle_ = other.handle_;
    other.handle_ = kClosed;
  }
  return *this;
}

File File::open_read(const char* path) noexcept {
  const LastErrorScope last_error_scope;
  File file;
  file.handle_ = open_path(path, {GENERIC_READ, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL});
  return file;
}

File File::create(const char* path) noexcept {
  const LastErrorScope last_error_scope;
  File file;
  file.handle_ = open_path(path, {GENERIC_READ | GENERIC_WRITE, CREATE_ALWAYS, FILE_ATTRIBUTE_NORMAL});
  if (file.is_open()) make_sparse(file.handle_);
  return file;
}

// The name exists as long as the handle; the system closes handles of a process that ends in any way.
File File::temporary(const char* directory) noexcept {
  const LastErrorScope last_error_scope;
  constexpr Opening kOpening{GENERIC_READ | GENERIC_WRITE | DELETE, CREATE_NEW,
                             FILE_ATTRIBUTE_TEMPORARY | FILE_FLAG_DELETE_ON_CLOSE};
  constexpr char kName[] = "\\glebe-";
  constexpr std::size_t kDigits = 16;
  File file;
  char path[MAX_PATH];
  const std::size_t length = std::strlen(directory);
  if (length + sizeof kName + kDigits > sizeof path) return file;
  std::memcpy(path, directory, length);
  std::memcpy(path + length, kName, sizeof kName);
  char* digits = path + length + sizeof kName - 1;
  digits[kDigits] = '\0';
  for (int tries = 0; tries < kMaxNames; ++tries) {
    std::uint64_t number = entropy();
    for (std::size_t i = 0; i < kDigits; ++i, number >>= 4) digits[i] = "0123456789abcdef"[number & 15];
    file.handle_ = open_path(path, kOpening);
    if (file.is_open() || ::GetLastError() != ERROR_FILE_EXISTS) break;
  }
  if (file.is_open()) make_sparse(file.handle_);
  return file;
}

bool File::read_at(std::uint64_t offset, void* to, std::size_t size_bytes) const noexcept {
  const LastErrorScope last_error_scope;
  if (!is_open()) return false;
  return move_all(offset, size_bytes, [&](OVERLAPPED* position, std::size_t done, DWORD size) noexcept {
    DWORD count = 0;
    char* target = static_cast<char*>(to) + done;
    return ::ReadFile(handle_of(handle_), target, size, &count, position) != 0 ? count : DWORD{0};
  });
}

bool File::write_at(std::uint64_t offset, const void* from, std::size_t size_bytes) noexcept {
  const LastErrorScope last_error_scope;
  if (!is_open()) return false;
  return move_all(offset, size_bytes, [&](OVERLAPPED* position, std::size_t done, DWORD size) noexcept {
    DWORD count = 0;
    const char* source = static_cast<const char*>(from) + done;
    return ::WriteFile(handle_of(handle_), source, size, &count, position) != 0 ? count : DWORD{0};
  });
}

bool File::punch_hole(std::uint64_t offset, std::uint64_t size_bytes) noexcept {
  const LastErrorScope last_error_scope;
  if (!is_open() || offset > INT64_MAX || size_bytes > INT64_MAX - offset) return false;
  FILE_ZERO_DATA_INFORMATION range{};
  range.FileOffset.QuadPart = static_cast<LONGLONG>(offset);
  range.BeyondFinalZero.QuadPart = static_cast<LONGLONG>(offset + size_bytes);
  DWORD ignored = 0;
  return ::DeviceIoControl(handle_of(handle_), FSCTL_SET_ZERO_DATA, &range, sizeof range, nullptr, 0,
                           &ignored, nullptr) != 0;
}

bool File::truncate(std::uint64_t size_bytes) noexcept {
  const LastErrorScope last_error_scope;
  if (!is_open() || size_bytes > INT64_MAX) return false;
  FILE_END_OF_FILE_INFO end{};
  end.EndOfFile.QuadPart = static_cast<LONGLONG>(size_bytes);
  return ::SetFileInformationByHandle(handle_of(handle_), FileEndOfFileInfo, &end, sizeof end) != 0;
}

std::uint64_t File::size_bytes() const noexcept {
  const LastErrorScope last_error_scope;
  return is_open() ? static_cast<std::uint64_t>(sizes_of(handle_).EndOfFile.QuadPart) : 0;
}

std::uint64_t File::allocated_bytes() const noexcept {
  const LastErrorScope last_error_scope;
  return is_open() ? static_cast<std::uint64_t>(sizes_of(handle_).AllocationSize.QuadPart) : 0;
}

void File::close() noexcept {
  if (!is_open()) return;
  const LastErrorScope last_error_scope;
  static_cast<void>(::CloseHandle(handle_of(handle_)));
  handle_ = kClosed;
}

}  // namespace glebe::os
