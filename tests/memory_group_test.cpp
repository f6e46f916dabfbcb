// The memory control group of a process, in folders that look like those of the system.
#include "platform/linux/memory_group.h"

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/catch.h"

using namespace glebe;

namespace {

class Folder {
 public:
  Folder() {
    std::string name = "/tmp/glebe-group-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }

  void write(const std::string& name, const std::string& text) const {
    const std::filesystem::path file = path_ + "/" + name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  [[nodiscard]] std::string at(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Folders for the three hierarchies, and what /proc/self/cgroup says.
struct System {
  Folder folder;
  std::string names = folder.at("cgroup"), v1 = folder.at("v1"), v2 = folder.at("v2"),
              hybrid = folder.at("hybrid");

  explicit System(const std::string& text) { folder.write("cgroup", text); }
  [[nodiscard]] os::MemoryGroup group() const {
    return os::MemoryGroup({names.c_str(), v1.c_str(), v2.c_str(), hybrid.c_str()});
  }
};

}  // namespace

TEST_CASE("Without a control group there is no limit", "[platform]") {
  for (const char* text : {"", "1:cpu:/here\n", "nonsense", "\n\n:\n", "0::"}) {
    INFO(text);
    const System system(text);
    os::MemoryGroup group = system.group();
    CHECK(group.smallest_limit() == SIZE_MAX);
    CHECK(group.nearest().limit == SIZE_MAX);
    CHECK(group.nearest().used == 0);
    char pressure[64];
    CHECK(group.pressure(pressure, sizeof pressure) == 0);
  }
}

TEST_CASE("V7 version 2: the smallest limit on the way up counts, memory.high too", "[platform]") {
  const System system("0::/a/b/c\n");
  system.folder.write("v2/cgroup.controllers", "cpu memory\n");
  system.folder.write("v2/a/memory.max", "900000\n");
  system.folder.write("v2/a/memory.high", "max\n");
  system.folder.write("v2/a/memory.current", "500000\n");
  system.folder.write("v2/a/b/memory.max", "max\n");
  system.folder.write("v2/a/b/memory.high", "1000000\n");
  system.folder.write("v2/a/b/memory.current", "400000\n");
  system.folder.write("v2/a/b/c/memory.max", "max\n");
  system.folder.write("v2/a/b/c/memory.high", "max\n");
  system.folder.write("v2/a/b/c/memory.current", "300000\n");
  system.folder.write("v2/a/b/c/memory.pressure", "some avg10=1.00\n");
  os::MemoryGroup group = system.group();
  CHECK(group.smallest_limit() == 900'000);
  CHECK(group.nearest().limit == 1'000'000);  // with the use of the same group
  CHECK(group.nearest().used == 400'000);
  char pressure[64];
  CHECK(group.pressure(pressure, sizeof pressure) == 16);
  system.folder.write("v2/a/b/c/memory.high", "700000\n");  // is read anew
  CHECK(group.smallest_limit() == 700'000);
  CHECK(group.nearest().used == 300'000);
}

TEST_CASE("Version 2 beside version 1, and version 1 among other controllers", "[platform]") {
  const System hybrid("5:cpu:/x\n0::/y\n");
  hybrid.folder.write("hybrid/y/memory.max", "123456\n");
  hybrid.folder.write("hybrid/y/memory.current", "1000\n");
  hybrid.folder.write("v2/y/memory.max", "5\n");  // no cgroup.controllers: not version 2
  CHECK(hybrid.group().smallest_limit() == 123'456);
  const System first("0::/y\n7:cpu,memory,io:/p/q\n3:memory2:/z\n");
  first.folder.write("v1/p/memory.limit_in_bytes", "9223372036854771712\n");
  first.folder.write("v1/p/memory.usage_in_bytes", "77\n");
  first.folder.write("v1/p/q/memory.limit_in_bytes", "654321\n");
  first.folder.write("v1/p/q/memory.usage_in_bytes", "66\n");
  first.folder.write("v2/cgroup.controllers", "cpu\n");
  first.folder.write("v2/y/memory.max", "5\n");
  os::MemoryGroup group = first.group();
  CHECK(group.smallest_limit() == 654'321);
  CHECK(group.nearest().used == 66);
  first.folder.write("v1/p/q/memory.limit_in_bytes", "9223372036854771712\n");  // no limit
  CHECK(group.smallest_limit() == SIZE_MAX);
  CHECK(group.nearest().limit == SIZE_MAX);
  CHECK(group.nearest().used == 66);
}

TEST_CASE("In a container the name may be the host's: the mount point answers", "[platform]") {
  const System system("4:memory:/docker/0123456789abcdef\n");
  system.folder.write("v1/memory.limit_in_bytes", "4096000\n");
  system.folder.write("v1/memory.usage_in_bytes", "4000\n");
  CHECK(system.group().smallest_limit() == 4'096'000);
  CHECK(system.group().nearest().used == 4000);
  // A name longer than any path.
  const System long_name("4:memory:/" + std::string(2000, 'x') + "\n");
  long_name.folder.write("v1/memory.limit_in_bytes", "4096000\n");
  CHECK(long_name.group().smallest_limit() == 4'096'000);
}
