#include "bench/allocators.h"

#include <dlfcn.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <stdexcept>

#include "bench/child.h"
#include "build_paths.h"

namespace torture {
namespace {

namespace fs = std::filesystem;

struct Package {
  const char* name;
  const char* library_prefix;  // the version follows
};

constexpr Package kPackages[] = {
    {"mimalloc", "libmimalloc.so"},
    {"jemalloc", "libjemalloc.so"},
    {"tcmalloc", "libtcmalloc_minimal.so"},
};

std::string resolve(const fs::path& path) {
  std::error_code error;
  const fs::path resolved = fs::canonical(path, error);
  return error || !fs::is_regular_file(resolved, error) ? std::string() : resolved.string();
}

// Where the distribution keeps its libraries: beside the C library, and the usual places.
std::vector<std::string> library_folders() {
  std::vector<std::string> folders;
  Dl_info info;
  void* const symbol = ::dlsym(RTLD_DEFAULT, "gnu_get_libc_version");
  if (symbol != nullptr && ::dladdr(symbol, &info) != 0) {
    folders.push_back(fs::path(info.dli_fname).parent_path().string());
  }
  for (const char* folder : {"/usr/local/lib", "/usr/lib64", "/usr/lib"}) folders.emplace_back(folder);
  return folders;
}

// The paths in `folder` whose file name begins with `prefix`, last first.
std::vector<std::string> matching_files(const std::string& folder, const std::string& prefix) {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.compare(0, prefix.size(), prefix) == 0) found.push_back(entry.path().string());
  }
  std::sort(found.rbegin(), found.rend());
  return found;
}

// The library whose file name begins with `prefix`; of several versions the one that sorts last.
std::string find_packaged(const std::string& prefix) {
  for (const std::string& folder : library_folders()) {
    for (const std::string& path : matching_files(folder, prefix)) {
      const std::string resolved = resolve(path);
      if (!resolved.empty()) return resolved;
    }
  }
  return {};
}

std::string find_built(const char* file_name, const std::vector<std::string>& folders, const char* built) {
  const fs::path own_folder = fs::path(own_path()).parent_path();
  for (const std::string& folder : folders) {
    const std::string found = resolve(own_folder / folder / file_name);
    if (!found.empty()) return found;
  }
  return *built == '\0' ? std::string() : resolve(built);
}

Allocator find_by_path(const std::string& name, const std::string& path) {
  const std::string resolved = resolve(path);
  if (resolved.empty()) throw std::invalid_argument("the library of " + name + " cannot be read: " + path);
  return Allocator{name, resolved, {}};
}

Allocator find_one(const std::string& word, const std::string& glebe_library) {
  const std::size_t equals = word.find('=');
  if (equals == 0) throw std::invalid_argument("an allocator needs a name before the =: " + word);
  if (equals != std::string::npos) return find_by_path(word.substr(0, equals), word.substr(equals + 1));
  if (word == kLibc) return Allocator{word, kLibc, {}};
  if (word == "glebe") {
    if (!glebe_library.empty()) return find_by_path(word, glebe_library);
    const std::string found = find_built("libglebe.so", {".", "..", "../src", "../lib"}, kBuiltGlebe);
    return Allocator{word, found, "libglebe.so is neither next to torture nor in its build; use --glebe"};
  }
  for (const Package& package : kPackages) {
    if (word != package.name) continue;
    return Allocator{word, find_packaged(package.library_prefix),
                     std::string(package.library_prefix) + " is not installed"};
  }
  throw std::invalid_argument(
      "unknown allocator \"" + word +
      "\": known are glebe, libc, mimalloc, jemalloc, tcmalloc and name=/path/library.so");
}

}  // namespace

std::vector<Allocator> find_allocators(const std::vector<std::string>& names,
                                       const std::string& glebe_library) {
  std::vector<Allocator> allocators;
  for (const std::string& word : names) {
    Allocator allocator = find_one(word, glebe_library);
    for (const Allocator& other : allocators) {
      if (other.name == allocator.name)
        throw std::invalid_argument("allocator " + other.name + " is named twice");
    }
    allocators.push_back(std::move(allocator));
  }
  return allocators;
}

std::string find_recorder() { return find_built("libtrace_record.so", {"."}, kBuiltRecorder); }

std::string own_path() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).string();
}

}  // namespace torture
