// What the tests of the page store share: contents of every kind that can be made again from a number, a
// directory of their own, a store with its scratch and batch.
#pragma once

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "src/paging/store.h"
#include "tests/random.h"

using Bytes = std::vector<std::byte>;

enum class Kind { zero, word32, word64, text, noise };
inline constexpr unsigned kKinds = 5;

// `size_bytes` bytes that `seed` decides. text compresses, noise does not.
inline Bytes make_object(Kind kind, std::size_t size_bytes, std::uint64_t seed) {
  Random random(seed);
  Bytes bytes(size_bytes);
  const std::uint64_t first = random.next();
  for (std::size_t at = 0; at < size_bytes; at += sizeof first) {
    std::uint64_t word = 0;
    if (kind == Kind::word32) word = first << 32 | (first & 0xffffffffu);
    if (kind == Kind::word64) word = first | 1;
    if (kind == Kind::noise) word = random.next();
    // Of 32 bytes 20 are of few kinds.
    if (kind == Kind::text) word = 0x6161616161616161u + (at / 32 + seed) % 7;
    if (kind == Kind::text && at % 32 >= 16) word = at % 32 == 16 ? random.next() << 32 : random.next();
    std::memcpy(bytes.data() + at, &word, size_bytes - at < sizeof word ? size_bytes - at : sizeof word);
  }
  return bytes;
}

// A directory that is there as long as this is.
class TestDirectory {
 public:
  TestDirectory() {
    const char* base = std::getenv("TMPDIR");
    std::string path = std::string(base != nullptr ? base : "/tmp") + "/glebe-store-XXXXXX";
    path_ = ::mkdtemp(path.data()) != nullptr ? path : std::string();
  }
  ~TestDirectory() {
    for (const std::string& name : names()) ::unlink((path_ + "/" + name).c_str());
    ::rmdir(path_.c_str());
  }
  TestDirectory(const TestDirectory&) = delete;
  TestDirectory& operator=(const TestDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    DIR* const directory = ::opendir(path_.c_str());
    if (directory == nullptr) return found;
    while (const dirent* entry = ::readdir(directory)) {
      if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0) {
        found.emplace_back(entry->d_name);
      }
    }
    ::closedir(directory);
    return found;
  }

 private:
  std::string path_;
};

// Descriptors of this process that are files without a name on the device and in the directory of `path`.
inline std::vector<int> nameless_files(const std::string& path) {
  std::vector<int> found;
  DIR* const directory = ::opendir("/proc/self/fd");
  while (const dirent* entry = ::readdir(directory)) {
    const int number = std::atoi(entry->d_name);
    struct stat status {};
    char target[4096] = {};
    if (entry->d_name[0] == '.' || ::fstat(number, &status) != 0 || !S_ISREG(status.st_mode)) continue;
    const std::string link = std::string("/proc/self/fd/") + entry->d_name;
    if (::readlink(link.c_str(), target, sizeof target - 1) < 0) continue;
    if (status.st_nlink == 0 && std::strncmp(target, path.c_str(), path.size()) == 0) found.push_back(number);
  }
  ::closedir(directory);
  return found;
}

struct StoreRig {
  glebe::paging::Store store;
  glebe::paging::Scratch scratch;
  glebe::paging::Batch batch;

  // False: something could not be opened.
  bool open(const glebe::paging::StoreOptions& options) {
    return store.open(options) == glebe::paging::StoreProblem::none && scratch.open(options.codec) &&
           batch.open();
  }
  glebe::paging::Handle put(const Bytes& bytes) {
    glebe::paging::Handle handle = glebe::paging::kNoObject;
    const auto result = store.put(bytes.data(), bytes.size(), scratch, &handle);
    return result == glebe::paging::PutResult::stored ? handle : glebe::paging::kNoObject;
  }
  // Writes one object to the file tier.
  glebe::paging::Handle write(const Bytes& bytes) {
    batch.clear();
    if (!store.add(batch, bytes.data(), bytes.size())) return glebe::paging::kNoObject;
    return store.write(batch) == 1 ? batch.written(0) : glebe::paging::kNoObject;
  }
  glebe::paging::GetResult get(glebe::paging::Handle handle, Bytes& to) {
    return store.get(handle, to.data(), to.size(), scratch);
  }
  [[gnu::noinline]] bool holds(glebe::paging::Handle handle, const Bytes& expected) {
    Bytes read = expected;
    for (std::byte& byte : read) byte = static_cast<std::byte>(~byte);
    return get(handle, read) == glebe::paging::GetResult::ok && read == expected;
  }
};
