#include "tools/glebe/program_file.h"

#include <elf.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <vector>

#include "tools/glebe/problem.h"

namespace glebe::tool {
namespace {

constexpr int kScriptsMax = 4;  // as the kernel: an interpreter may be a script itself

template <class Header, class Segment>
bool finds_interpreter(std::ifstream& file) {
  Header header{};
  file.seekg(0);
  if (!file.read(reinterpret_cast<char*>(&header), sizeof header)) return false;
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    Segment segment{};
    file.seekg(static_cast<std::streamoff>(header.e_phoff + i * header.e_phentsize));
    if (!file.read(reinterpret_cast<char*>(&segment), sizeof segment)) return false;
    if (segment.p_type == PT_INTERP) return true;
  }
  return false;
}

// "#!/usr/bin/env python3" names two programs; the second one is what runs in the end.
std::string interpreter_of(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line) || line.rfind("#!", 0) != 0) return {};
  std::vector<std::string> words;
  for (std::size_t at = 2; at < line.size();) {
    const std::size_t begin = line.find_first_not_of(" \t\r", at);
    if (begin == std::string::npos) break;
    const std::size_t end = std::min(line.find_first_of(" \t\r", begin), line.size());
    words.push_back(line.substr(begin, end - begin));
    at = end;
  }
  if (words.empty()) return {};
  const bool by_env = words[0].size() >= 4 && words[0].compare(words[0].size() - 4, 4, "/env") == 0;
  if (by_env && words.size() > 1 && words[1][0] != '-' && words[1].find('=') == std::string::npos) {
    return find_program(words[1]);
  }
  return words[0];
}

// Why the loader would run the program in secure mode, where it ignores LD_PRELOAD; empty when it would not.
std::string secure_reason(const std::string& path) {
  struct stat info {};
  struct statvfs mount {};
  if (::stat(path.c_str(), &info) != 0) return {};
  if (::statvfs(path.c_str(), &mount) == 0 && (mount.f_flag & ST_NOSUID) != 0) return {};
  if ((info.st_mode & S_ISUID) != 0 && info.st_uid != ::getuid()) return "it is set-user-id";
  if ((info.st_mode & S_ISGID) != 0 && (info.st_mode & S_IXGRP) != 0 && info.st_gid != ::getgid()) {
    return "it is set-group-id";
  }
  if (::getuid() != 0 && ::getxattr(path.c_str(), "security.capability", nullptr, 0) > 0) {
    return "it has file capabilities";
  }
  return {};
}

bool is_executable_file(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && ::access(path.c_str(), X_OK) == 0;
}

std::string refused(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return "it is a directory";
  return "it may not be executed; check its mode (chmod +x) and the mount option noexec";
}

}  // namespace

ElfFile read_elf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  ElfFile elf;
  unsigned char start[EI_NIDENT + 4] = {};
  if (!file.read(reinterpret_cast<char*>(start), sizeof start)) return elf;
  if (std::memcmp(start, ELFMAG, SELFMAG) != 0) return elf;
  std::uint16_t type = 0;
  std::memcpy(&type, start + EI_NIDENT, sizeof type);
  std::memcpy(&elf.machine, start + EI_NIDENT + 2, sizeof elf.machine);
  elf.is_elf = true;
  elf.is_64_bit = start[EI_CLASS] == ELFCLASS64;
  elf.is_shared = type == ET_DYN;
  elf.has_interpreter = elf.is_64_bit ? finds_interpreter<Elf64_Ehdr, Elf64_Phdr>(file)
                                      : finds_interpreter<Elf32_Ehdr, Elf32_Phdr>(file);
  return elf;
}

std::string find_program(const std::string& name) {
  if (name.empty()) throw Problem("the name of the program is empty", kNotFound);
  if (name.find('/') != std::string::npos) {
    if (is_executable_file(name)) return name;
    if (::access(name.c_str(), F_OK) != 0) {
      throw Problem(fmt::format("{}: {}", name, std::strerror(errno)), kNotFound);
    }
    throw Problem(fmt::format("{}: {}", name, refused(name)), kNotExecutable);
  }
  const char* variable = ::getenv("PATH");
  const std::string folders = variable == nullptr ? "/usr/local/bin:/usr/bin:/bin" : variable;
  for (std::size_t at = 0; at <= folders.size();) {
    const std::size_t end = std::min(folders.find(':', at), folders.size());
    const std::string folder = end == at ? "." : folders.substr(at, end - at);
    if (is_executable_file(folder + "/" + name)) return folder + "/" + name;
    at = end + 1;
  }
  throw Problem(
      fmt::format("{}: no such program in the folders of PATH; give its path if it lies elsewhere", name),
      kNotFound);
}

void check_program(const std::string& path, const std::string& library) {
  std::string file = path;
  std::string secure = secure_reason(file);  // of a script it is ignored by the kernel
  for (int depth = 0; depth < kScriptsMax && !read_elf(file).is_elf; ++depth) {
    secure.clear();
    const std::string next = interpreter_of(file);
    if (next.empty()) return;  // the kernel or a shell decides what to make of it
    file = next;
    secure = secure_reason(file);
  }
  const ElfFile elf = read_elf(file), ours = read_elf(library);
  if (!elf.is_elf) return;
  const std::string named = file == path ? path : fmt::format("{} (which runs {})", file, path);
  if (!secure.empty()) {
    throw Problem(
        fmt::format("{}: {}, so the loader ignores LD_PRELOAD; run this tool as the user that the program "
                    "changes to",
                    named, secure));
  }
  if (elf.machine != ours.machine || elf.is_64_bit != ours.is_64_bit) {
    throw Problem(
        fmt::format("{}: a program for another machine or word size than {}; use a libglebe.so that was "
                    "built for it (--library)",
                    named, library));
  }
  if (!elf.has_interpreter) {
    throw Problem(
        fmt::format("{}: linked statically, so there is no loader that would obey LD_PRELOAD; link the "
                    "program dynamically, or with libglebe.a",
                    named));
  }
}

}  // namespace glebe::tool
