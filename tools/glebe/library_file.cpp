#include "tools/glebe/library_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "tools/glebe/build_paths.h"
#include "tools/glebe/problem.h"
#include "tools/glebe/program_file.h"

namespace glebe::tool {
namespace fs = std::filesystem;
namespace {

constexpr char kMark[] = "glebe_version";  // a name that only our library exports

// What is wrong with the file as a library to preload; empty when nothing is.
std::string fault_of(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return "there is no such file";
  if (fs::is_directory(path, error)) return "it is a directory; name the file libglebe.so in it";
  if (::access(path.c_str(), R_OK) != 0) return fmt::format("it cannot be read: {}", std::strerror(errno));
  const ElfFile elf = read_elf(path);
  if (!elf.is_elf || !elf.is_shared) return "it is no shared library";
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (text.find(kMark) == std::string::npos) return "it is a shared library, but not libglebe.so";
  // The loader separates the entries of LD_PRELOAD by these and knows no quotes.
  if (path.string().find_first_of(": \t\n") != std::string::npos) {
    return "LD_PRELOAD cannot hold a path with a space or colon; link to the library from another folder";
  }
  return {};
}

std::vector<fs::path> candidates() {
  std::error_code error;
  const fs::path own = fs::read_symlink("/proc/self/exe", error).parent_path();
  std::vector<fs::path> folders = {own, own / ".." / kLibraryFolder, own / "../.."};
  std::vector<fs::path> files;
  for (const fs::path& folder : folders) {
    for (const char* name : {"libglebe.so.0", "libglebe.so"})
      files.push_back((folder / name).lexically_normal());
  }
  files.emplace_back(kInstalledLibrary);
  return files;
}

}  // namespace

std::string find_library(const std::string& named) {
  if (!named.empty()) {
    const std::string fault = fault_of(fs::absolute(named));
    if (!fault.empty()) throw Problem(fmt::format("--library {}: {}", named, fault));
    return fs::absolute(named).string();
  }
  std::string tried;
  for (const fs::path& file : candidates()) {
    const std::string fault = fault_of(file);
    if (fault.empty()) return file.string();
    tried += fmt::format("\n  {}: {}", file.string(), fault);
  }
  throw Problem("libglebe.so was not found; name it with --library PATH. Tried:" + tried);
}

std::string preload_value(const std::string& library, const char* before) {
  std::string value = library;
  const std::string rest = before == nullptr ? "" : before;
  for (std::size_t at = 0; at < rest.size();) {
    const std::size_t end = std::min(rest.find_first_of(": ", at), rest.size());
    const std::string entry = rest.substr(at, end - at);
    if (!entry.empty() && entry != library) value += ":" + entry;
    at = end + 1;
  }
  return value;
}

}  // namespace glebe::tool
