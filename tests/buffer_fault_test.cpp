// Explicit buffers on a disk that refuses writes or gives back other bytes than it was given: what is still
// right stays readable, what is not is never shown.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "tests/buffer_rig.h"

#include "tests/catch.h"
#include "tests/random.h"

#include "tests/buffer_checks.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

// Descriptors of this process that lead to files in the folder that have no name any more.
std::vector<int> descriptors_in(const char* folder) {
  std::vector<int> found;
  DIR* open_files = ::opendir("/proc/self/fd");
  REQUIRE(open_files != nullptr);
  while (const dirent* entry = ::readdir(open_files)) {
    char target[512];
    const std::string path = std::string("/proc/self/fd/") + entry->d_name;
    const ssize_t length = ::readlink(path.c_str(), target, sizeof target);
    const std::string name(target, length > 0 ? static_cast<std::size_t>(length) : 0);
    if (name.rfind(folder, 0) == 0 && name.find(" (deleted)") != std::string::npos) {
      found.push_back(std::atoi(entry->d_name));
    }
  }
  ::closedir(open_files);
  return found;
}

// Flips one bit in every block of 4 KiB that is not a hole.
std::size_t flip_bits(const std::vector<int>& descriptors) {
  std::size_t flipped = 0;
  for (const int descriptor : descriptors) {
    for (off_t data = ::lseek(descriptor, 0, SEEK_DATA); data >= 0;) {
      const off_t end = ::lseek(descriptor, data, SEEK_HOLE);
      for (off_t at = data + 100; at < end; at += 4096) {
        unsigned char byte = 0;
        if (::pread(descriptor, &byte, 1, at) != 1) continue;
        byte = static_cast<unsigned char>(byte ^ 4);
        if (::pwrite(descriptor, &byte, 1, at) == 1) ++flipped;
      }
      data = ::lseek(descriptor, end, SEEK_DATA);
    }
  }
  return flipped;
}

// Files of this process end at `bytes`; without the signal, so that a write answers EFBIG.
class FileLimit {
 public:
  explicit FileLimit(rlim_t bytes) {
    before_ = ::signal(SIGXFSZ, SIG_IGN);
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &limit_) == 0);
    rlimit low = limit_;
    low.rlim_cur = bytes;
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &low) == 0);
  }
  ~FileLimit() {
    ::setrlimit(RLIMIT_FSIZE, &limit_);
    ::signal(SIGXFSZ, before_);
  }

 private:
  rlimit limit_{};
  sighandler_t before_ = SIG_DFL;
};

BufferPagerOptions files_alone(BufferRig& rig) {
  BufferPagerOptions options = rig.options();
  options.compressed_bytes = 0;
  options.device = nullptr;
  return options;
}

}  // namespace

TEST_CASE("B6 0-24 a file that cannot be written keeps everything in memory; nothing is counted as stored",
          "[paging]") {
  BufferRig rig;
  BufferPagerOptions options = files_alone(rig);
  options.host_bytes = 20 * kExtent;
  REQUIRE(rig.pager.open(options) == Result::ok);
  BufferPager& pager = rig.pager;
  const std::vector<BufferHandle> buffers = make_filled(pager, 20);
  {
    const FileLimit no_files(0);
    for (const BufferHandle buffer : buffers) {
      REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::tier_full);
      REQUIRE(is_resident(pager, buffer));
    }
    REQUIRE(pager.move_many(buffers, Operation::page_to, Tier::file) == Result::tier_full);
    REQUIRE(pager.reclaim(kMiB) == 0);
    const BufferHandle more = make(pager, kExtent);
    REQUIRE(pager.pin(more, {}, Access::write).result == Result::over_budget);
    REQUIRE(pager.close_buffer(more) == Result::ok);
    REQUIRE(pager.file_budget().used_bytes() == 0);
    REQUIRE(pager.stats().page_outs == 0);
    REQUIRE(pager.stats().failed_copies >= 40);
    require_balance(pager);
  }
  require_contents(pager, buffers);
  require_balance(pager);
}

TEST_CASE("B6 0-24 bytes that changed in the file are found, every extent of them, and never shown",
          "[paging]") {
  BufferRig rig;
  REQUIRE(rig.pager.open(files_alone(rig)) == Result::ok);
  BufferPager& pager = rig.pager;
  const std::vector<BufferHandle> buffers = make_filled(pager, 30);
  const std::vector<BufferHandle> out(buffers.begin(), buffers.begin() + 20);
  REQUIRE(pager.move_many(out, Operation::swap_to, Tier::file) == Result::ok);
  const std::vector<int> files = descriptors_in(rig.folder.path());
  REQUIRE_FALSE(files.empty());
  REQUIRE(flip_bits(files) >= 20);
  for (const BufferHandle buffer : out) {
    const PinnedRange pinned = pager.pin(buffer, kOne, Access::read);
    REQUIRE(pinned.result == Result::corrupt);
    REQUIRE(pinned.data == nullptr);
    REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::host) == Result::corrupt);  // and it stays so
  }
  REQUIRE(pager.stats().failed_copies == 20);
  for (std::size_t i = 20; i < 30; ++i) REQUIRE(holds(pager, buffers[i], kOne, i));
  require_balance(pager);
  // Given up on purpose the range is new, and works.
  REQUIRE(pager.move(out[0], {}, Operation::discard, Tier::host) == Result::ok);
  REQUIRE(fill(pager, out[0], kOne, 5));
  REQUIRE(pager.move(out[0], {}, Operation::swap_to, Tier::file) == Result::ok);
  REQUIRE(holds(pager, out[0], kOne, 5));
  require_balance(pager);
}
