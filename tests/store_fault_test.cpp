// What the page store does when the disk is full, fails, answers short, or gives back other bytes than it was
// given: the objects concerned are refused or found out, all others stay right, and nothing is ever made up.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <thread>
#include <vector>

#include "platform/process.h"
#include "src/base/bits.h"
#include "src/paging/store.h"
#include "tests/failing_calls.h"
#include "tests/store_rig.h"

#include "tests/catch.h"
#include "tests/heap_child.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

constexpr int kCannotTest = 77;
constexpr unsigned kPages = kBatchObjectsMax;

Bytes page(std::uint64_t seed) { return make_object(Kind::noise, kPageBytes, seed); }

// A store whose only file holds the pages 0 .. kPages - 1 one behind the other.
struct FullFile {
  TestDirectory directory;
  StoreRig rig;
  std::vector<Handle> handles;
  int file = -1;

  bool open() {
    StoreOptions options;
    options.directory = directory.path().c_str();
    if (!rig.open(options)) return false;
    for (std::uint64_t i = 0; i < kPages; ++i) {
      if (!rig.store.add(rig.batch, page(i).data(), kPageBytes)) return false;
    }
    if (rig.store.write(rig.batch) != kPages) return false;
    for (unsigned i = 0; i < kPages; ++i) handles.push_back(rig.batch.written(i));
    const std::vector<int> files = nameless_files(directory.path());
    file = files.size() == 1 ? files[0] : -1;
    return file >= 0;
  }
  GetResult get(unsigned number) {
    Bytes to(kPageBytes);
    return rig.get(handles[number], to);
  }
  bool is_right(unsigned number) { return rig.holds(handles[number], page(number)); }
  Bytes raw(unsigned number) const {
    Bytes bytes(kPageBytes);
    const ssize_t count = ::pread(file, bytes.data(), kPageBytes, static_cast<off_t>(number * kPageBytes));
    return count == static_cast<ssize_t>(kPageBytes) ? bytes : Bytes();
  }
  bool set_raw(unsigned number, const Bytes& bytes) const {
    return ::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(number * kPageBytes)) ==
           static_cast<ssize_t>(bytes.size());
  }
};

// Fills a file until there is no room. Returns its bytes.
std::size_t fill_up(const std::string& path) {
  const Bytes block(4096, std::byte{1});
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  std::size_t bytes = 0;
  while (::write(file, block.data(), block.size()) == static_cast<ssize_t>(block.size()))
    bytes += block.size();
  ::close(file);
  return bytes;
}

// The user of this process is root in a user namespace of its own: without a map it could create no file.
bool become_root_of_a_namespace() {
  const std::string user = std::to_string(::getuid()), group = std::to_string(::getgid());
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
  std::ofstream("/proc/self/setgroups") << "deny";
  std::ofstream("/proc/self/uid_map") << "0 " + user + " 1";
  std::ofstream("/proc/self/gid_map") << "0 " + group + " 1";
  return ::getuid() == 0;
}

// A file system of our own, as root or as a user who may have a user namespace.
bool mount_small(const std::string& path, const char* options) {
  if (::unshare(CLONE_NEWNS) != 0 && !become_root_of_a_namespace()) return false;
  static_cast<void>(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  return ::mount("tmpfs", path.c_str(), "tmpfs", 0, options) == 0;
}

void write_batch(StoreRig& rig, std::uint64_t first, unsigned count, std::vector<Handle>& handles) {
  rig.batch.clear();
  for (unsigned i = 0; i < count; ++i)
    static_cast<void>(rig.store.add(rig.batch, page(first + i).data(), kPageBytes));
  rig.store.write(rig.batch);
  for (unsigned i = 0; i < count; ++i) handles.push_back(rig.batch.written(i));
}

bool all_right(StoreRig& rig, const std::vector<Handle>& handles) {
  for (std::uint64_t i = 0; i < handles.size(); ++i) {
    if (handles[i] != kNoObject && !rig.holds(handles[i], page(i))) return false;
  }
  return true;
}

// On a file system of 4 MiB. The number of the check that failed, 0 when none did.
int survive_full_disk(const std::string& path) {
  if (!mount_small(path, "size=4m")) return kCannotTest;
  StoreOptions options;
  options.directory = path.c_str();
  options.direct_io = true;
  StoreRig rig;
  if (!rig.open(options)) return 1;
  std::vector<Handle> handles;
  for (unsigned i = 0; i < 8; ++i) write_batch(rig, i * 200, 200, handles);
  // Something of the file system was left alone, and what was refused left nothing behind.
  StoreStats stats = rig.store.stats();
  const std::size_t written = stats.file_objects;
  if (written == 0 || written == handles.size() || !rig.store.is_degraded()) return 2;
  if (stats.file_live_bytes != written * kPageBytes || stats.file_space_bytes > 4 * kMiB * 95 / 100) return 3;
  if (!all_right(rig, handles)) return 4;
  // Holes give room to others, who take all of it: the next write finds space in the file, and none on disk.
  for (unsigned i = 100; i < 300; ++i) {
    rig.store.drop(handles[i]);
    handles[i] = kNoObject;
  }
  if (rig.store.trim() < 100 * kPageBytes) return 5;
  const std::string other = path + "/other";
  if (fill_up(other) < 100 * kPageBytes) return 6;
  const std::size_t live_before = rig.store.stats().file_live_bytes;
  const std::size_t free_before = rig.store.stats().file_free_bytes;
  std::vector<Handle> refused;
  write_batch(rig, 5000, 100, refused);
  stats = rig.store.stats();
  for (const Handle handle : refused) {
    if (handle != kNoObject) return 7;
  }
  if (stats.last_error != ENOSPC || stats.file_live_bytes != live_before) return 8;
  if (stats.file_free_bytes != free_before || !all_right(rig, handles)) return 9;
  // Space returns; after a while the store tries again.
  ::unlink(other.c_str());
  for (int tries = 0; rig.store.is_degraded() && tries < 100; ++tries) {
    std::vector<Handle> again;
    write_batch(rig, 6000, 10, again);
    if (!rig.store.is_degraded()) return all_right(rig, handles) && rig.holds(again[3], page(6003)) ? 0 : 10;
    ::usleep(100'000);
  }
  return 11;
}

}  // namespace

TEST_CASE("P1 0-24 a full file system: refused, nothing lost, resumed when space returns", "[paging]") {
  const TestDirectory directory;
  const int status = in_child([&] { return survive_full_disk(directory.path()); });
  if (status == kCannotTest) {
    WARN("no file system could be mounted: not tested here");
    return;
  }
  REQUIRE(status == 0);
}

TEST_CASE("P1 no inode is left: the store does not open, and says so", "[paging]") {
  const TestDirectory directory;
  const int status = in_child([&] {
    if (!mount_small(directory.path(), "size=2m,nr_inodes=2")) return kCannotTest;
    std::ofstream(directory.path() + "/the-last-one") << "x";
    StoreOptions options;
    options.directory = directory.path().c_str();
    Store store;
    return store.open(options) == StoreProblem::no_file ? 0 : 1;
  });
  if (status == kCannotTest) {
    WARN("no file system could be mounted: not tested here");
    return;
  }
  REQUIRE(status == 0);
}

TEST_CASE("P2 a limit of the file size is a cap, without the signal SIGXFSZ", "[paging]") {
  const TestDirectory directory;
  REQUIRE(in_child([&] {
            StoreOptions options;
            options.directory = directory.path().c_str();
            StoreRig rig;
            if (!rig.open(options)) return 1;
            std::vector<Handle> handles;
            write_batch(rig, 0, 256, handles);
            write_batch(rig, 256, 256, handles);
            // Below what the file has: neither its gaps behind the limit nor its end may be written.
            const rlimit limit{kMiB, kMiB};
            ::setrlimit(RLIMIT_FSIZE, &limit);
            for (unsigned i = 300; i < 500; ++i) rig.store.drop(handles[i]);
            std::vector<Handle> gap;
            rig.batch.clear();
            for (unsigned i = 300; i < 400; ++i)
              static_cast<void>(rig.store.add(rig.batch, page(i).data(), kPageBytes));
            if (rig.store.write(rig.batch) != 0 || rig.store.stats().last_error != EFBIG) return 2;
            // That file is left alone for a while; others are made, each within the limit.
            for (unsigned i = 0; i < 4; ++i) {
              std::vector<Handle> more;
              write_batch(rig, 1000 * (i + 1), 250, more);
              for (unsigned n = 0; n < 250; ++n) {
                if (more[n] == kNoObject || !rig.holds(more[n], page(1000 * (i + 1) + n))) return 3;
              }
            }
            for (unsigned i = 0; i < 300; ++i) {
              if (!rig.holds(handles[i], page(i))) return 4;
            }
            return rig.store.stats().files >= 4 ? 0 : 5;
          }) == 0);
}

TEST_CASE("P2 P4 short counts and interruptions are resumed", "[paging]") {
  for (const CallFault fault : {CallFault::half, CallFault::interrupted, CallFault::one_sector}) {
    const int status = in_child([&] {
      FullFile full;
      if (!fail_calls({SYS_pread64, SYS_pwrite64}, fault)) return kCannotTest;
      if (!full.open()) return 1;
      for (unsigned i = 0; i < kPages; ++i) {
        if (!full.is_right(i)) return 2;
      }
      return failed_calls() > 100 ? 0 : 3;
    });
    REQUIRE(status == 0);
  }
}

TEST_CASE("P3 a write that fails leaves nothing behind; a read that fails says so", "[paging]") {
  REQUIRE(in_child([] {
            FullFile full;
            if (!full.open()) return 1;
            const StoreStats before = full.rig.store.stats();
            if (!fail_calls({SYS_pwrite64, SYS_io_uring_enter}, CallFault::io_error)) return kCannotTest;
            std::vector<Handle> refused;
            write_batch(full.rig, 9000, 50, refused);
            for (const Handle handle : refused) {
              if (handle != kNoObject) return 2;
            }
            const StoreStats after = full.rig.store.stats();
            if (after.last_error != EIO || after.failed_writes == 0 || !full.rig.store.is_degraded())
              return 3;
            if (after.file_live_bytes != before.file_live_bytes || after.file_objects != kPages) return 4;
            if (after.file_live_bytes + after.file_free_bytes != after.file_space_bytes) return 6;
            for (unsigned i = 0; i < kPages; ++i) {
              if (!full.is_right(i)) return 5;
            }
            return 0;
          }) == 0);
  REQUIRE(in_child([] {
            FullFile full;
            if (!full.open()) return 1;
            if (!fail_calls({SYS_pread64}, CallFault::io_error)) return kCannotTest;
            for (unsigned i = 0; i < kPages; ++i) {
              if (full.get(i) != GetResult::io_error) return 2;
            }
            const StoreStats stats = full.rig.store.stats();
            return stats.failed_reads == kPages && stats.last_error == EIO && stats.corrupt_reads == 0 ? 0
                                                                                                       : 3;
          }) == 0);
}

TEST_CASE("P7 mut-A06 while a write hangs, everything else goes on", "[paging]") {
  REQUIRE(in_child([] {
            FullFile full;
            if (!full.open() || !fail_calls({SYS_pwrite64}, CallFault::stuck)) return kCannotTest;
            Store& store = full.rig.store;
            std::atomic<unsigned> written{0};
            std::thread writer([&] {
              Batch batch;
              if (!batch.open() || !store.add(batch, page(5000).data(), kPageBytes)) return;
              written = store.write(batch);
            });
            while (!failing_calls::is_stuck) ::usleep(100);
            // The alarm of the child ends this test when one of them waits.
            int wrong = 0;
            const Bytes text = make_object(Kind::text, kPageBytes, 1);
            for (unsigned i = 0; i < kPages; ++i) {
              const Handle handle = full.rig.put(text);
              wrong += handle == kNoObject || !full.rig.holds(handle, text);
              store.drop(handle);
              wrong += !full.is_right(i);
              store.drop(full.handles[i]);
              wrong += store.stats().file_objects != kPages - i - 1;
            }
            store.hold();
            store.release();
            store.trim();
            wrong += written != 0;
            failing_calls::may_go_on = true;
            writer.join();
            return wrong == 0 && written == 1 ? 0 : 1;
          }) == 0);
}

TEST_CASE("P5 mut-A14 0-24 a flipped bit anywhere is found, and harms nothing else", "[paging]") {
  FullFile full;
  REQUIRE(full.open());
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  std::vector<bool> is_flipped(kPages);
  for (int flips = 0; flips < 100;) {
    const unsigned number = random.below32(kPages);
    if (is_flipped[number]) continue;
    Bytes bytes = full.raw(number);
    REQUIRE(bytes == page(number));
    bytes[random.below(kPageBytes)] ^= static_cast<std::byte>(1u << random.below(8));
    REQUIRE(full.set_raw(number, bytes));
    is_flipped[number] = true;
    ++flips;
  }
  unsigned found = 0;
  for (unsigned i = 0; i < kPages; ++i) {
    if (is_flipped[i]) {
      found += full.get(i) == GetResult::corrupt;
    } else {
      REQUIRE(full.is_right(i));
    }
  }
  REQUIRE(found == 100);
  REQUIRE(full.rig.store.stats().corrupt_reads == 100);
}

TEST_CASE("P5 of objects that are read together only the broken ones are refused", "[paging]") {
  FullFile full;
  REQUIRE(full.open());
  for (const unsigned number : {5u, 6u, 90u}) {
    Bytes bytes = full.raw(number);
    bytes[number] ^= std::byte{4};
    REQUIRE(full.set_raw(number, bytes));
  }
  REQUIRE(::ftruncate(full.file, 250 * static_cast<off_t>(kPageBytes)) == 0);
  std::vector<Bytes> to(kPages, Bytes(kPageBytes));
  std::vector<ObjectRead> reads;
  for (unsigned i = 0; i < kPages; ++i) {
    reads.push_back({full.handles[i], to[i].data(), kPageBytes, GetResult::ok});
  }
  full.rig.store.get_many(reads, full.rig.batch, full.rig.scratch);
  for (unsigned i = 0; i < kPages; ++i) {
    const bool is_flipped = i == 5 || i == 6 || i == 90;
    const GetResult expected = i >= 250     ? GetResult::io_error
                               : is_flipped ? GetResult::corrupt
                                            : GetResult::ok;
    INFO("page " << i);
    REQUIRE(reads[i].result == expected);
    REQUIRE((expected != GetResult::ok || to[i] == page(i)));
  }
}

TEST_CASE("P5 swapped and stale blocks are found", "[paging]") {
  FullFile full;
  REQUIRE(full.open());
  const Bytes third = full.raw(3);
  REQUIRE(full.set_raw(3, full.raw(70)));
  REQUIRE(full.set_raw(70, third));
  REQUIRE(full.get(3) == GetResult::corrupt);
  REQUIRE(full.get(70) == GetResult::corrupt);
  REQUIRE(full.is_right(4));
  // What lay there before comes back from the disk, as if the last write had been lost.
  const Bytes old = full.raw(100);
  full.rig.store.drop(full.handles[100]);
  full.handles[100] = full.rig.write(page(7777));
  REQUIRE(full.raw(100) == page(7777));
  REQUIRE(full.set_raw(100, old));
  REQUIRE(full.get(100) == GetResult::corrupt);
}

TEST_CASE("P5 the handle of a dropped object does not read what came in its place, equal bytes or not",
          "[paging]") {
  FullFile full;
  REQUIRE(full.open());
  const Handle before = full.handles[9];
  full.rig.store.drop(before);
  full.handles[9] = full.rig.write(page(9));
  REQUIRE(full.is_right(9));
  Bytes to(kPageBytes);
  REQUIRE(full.rig.get(before, to) == GetResult::corrupt);
}

TEST_CASE("P5 a file that was cut answers with an error behind the cut only", "[paging]") {
  FullFile full;
  REQUIRE(full.open());
  REQUIRE(::ftruncate(full.file, kPages / 2 * static_cast<off_t>(kPageBytes) + 100) == 0);
  for (unsigned i = 0; i < kPages / 2; ++i) REQUIRE(full.is_right(i));
  for (unsigned i = kPages / 2; i < kPages; ++i) REQUIRE(full.get(i) == GetResult::io_error);
  REQUIRE(full.rig.store.stats().last_error == ENODATA);
}

TEST_CASE("P6 kill -9 at any moment leaves no file", "[paging]") {
  const TestDirectory directory;
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  for (int round = 0; round < 40; ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      for (;;) {
        StoreOptions options;
        options.directory = directory.path().c_str();
        options.file_bytes_max = 256 * kKiB;
        StoreRig rig;
        if (!rig.open(options)) ::_exit(1);
        std::vector<Handle> handles;
        for (unsigned i = 0; i < 5; ++i) write_batch(rig, i * 100, 100, handles);
      }
    }
    ::usleep(static_cast<unsigned>(random.below(20'000)));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    REQUIRE(WIFSIGNALED(status));
    REQUIRE(WTERMSIG(status) == SIGKILL);
  }
  REQUIRE(directory.names().empty());
}

TEST_CASE("0-3 without O_TMPFILE the file has a name for a moment only", "[paging]") {
  const TestDirectory directory;
  REQUIRE(in_child([&] {
            if (!fail_tmpfile()) return kCannotTest;
            StoreOptions options;
            options.directory = directory.path().c_str();
            StoreRig rig;
            if (!rig.open(options)) return 1;
            if (!directory.names().empty()) return 2;
            std::vector<Handle> handles;
            write_batch(rig, 0, 100, handles);
            return all_right(rig, handles) && handles[99] != kNoObject ? 0 : 3;
          }) == 0);
}

TEST_CASE("P11 descriptors lie out of the way, and one that was closed is not written to", "[paging]") {
  const TestDirectory directory;
  const std::string victim = directory.path() + "/victim";
  REQUIRE(in_child([&] {
            FullFile full;
            if (!full.open()) return 1;
            if (full.file < 1000) return 2;
            // The program closes what it does not know, and its own file gets the number.
            const int program = ::open(victim.c_str(), O_RDWR | O_CREAT, 0600);
            if (::dup2(program, full.file) != full.file) return 3;
            std::vector<Handle> refused;
            full.rig.store.drop(full.handles[10]);
            write_batch(full.rig, 9000, 1, refused);
            const bool is_in_another_file = refused[0] != kNoObject;
            if (is_in_another_file && !full.rig.holds(refused[0], page(9000))) return 4;
            for (unsigned i = 0; i < 10; ++i) {
              if (full.get(i) != GetResult::io_error) return 5;
            }
            full.rig.store.trim();
            full.rig.store.close();
            return ::fcntl(full.file, F_GETFD) >= 0 && ::lseek(program, 0, SEEK_END) == 0 ? 0 : 6;
          }) == 0);
  std::ifstream untouched(victim, std::ios::ate);
  REQUIRE(untouched.tellg() == std::streampos(0));
}

TEST_CASE("P11 the directory vanishes: what is stored stays readable, growth is refused", "[paging]") {
  StoreOptions options;
  options.file_bytes_max = kMiB;
  StoreRig rig;
  std::vector<Handle> handles;
  {
    const TestDirectory directory;
    options.directory = directory.path().c_str();
    REQUIRE(rig.open(options));
    write_batch(rig, 0, 200, handles);
  }
  for (int i = 0; i < 10; ++i) {
    std::vector<Handle> more;
    write_batch(rig, 1000, 256, more);
    for (const Handle handle : more) rig.store.drop(handle);
  }
  REQUIRE(rig.store.is_degraded());
  REQUIRE(rig.store.stats().files == 1);
  REQUIRE(all_right(rig, handles));
}

namespace {

// Descriptors of this process that are io_uring queues.
std::vector<int> ring_descriptors() {
  std::vector<int> found;
  for (int number = 0; number < 2000; ++number) {
    char target[64] = {};
    const std::string link = "/proc/self/fd/" + std::to_string(number);
    if (::readlink(link.c_str(), target, sizeof target - 1) < 0) continue;
    if (std::string(target).find("io_uring") != std::string::npos) found.push_back(number);
  }
  return found;
}

// Reads every fifth page of a full file at once. False: one of them is wrong.
bool read_scattered(FullFile& full) {
  std::vector<Bytes> to(kPages, Bytes(kPageBytes));
  std::vector<ObjectRead> reads;
  for (unsigned i = 0; i < kPages; i += 5) {
    reads.push_back({full.handles[kPages - 1 - i], to[i].data(), kPageBytes, GetResult::corrupt});
  }
  full.rig.store.get_many(reads, full.rig.batch, full.rig.scratch);
  for (unsigned i = 0; i < kPages; i += 5) {
    if (reads[i / 5].result != GetResult::ok || to[i] != page(kPages - 1 - i)) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("P4 objects that are read together: one read for neighbours, all at once otherwise", "[paging]") {
  FullFile full;
  REQUIRE(full.open());
  std::vector<Bytes> to(60, Bytes(kPageBytes));
  std::vector<ObjectRead> reads;
  for (unsigned i = 0; i < 60; ++i) {
    reads.push_back({full.handles[100 + i], to[i].data(), kPageBytes, GetResult::corrupt});
  }
  full.rig.store.get_many(reads, full.rig.batch, full.rig.scratch);
  for (unsigned i = 0; i < 60; ++i) {
    REQUIRE(reads[i].result == GetResult::ok);
    REQUIRE(to[i] == page(100 + i));
  }
  REQUIRE(full.rig.store.stats().reads == 1);
  REQUIRE(full.rig.store.stats().gets == 60);
  REQUIRE(full.rig.store.stats().io_rings == 0);
  // Every fifth page, so that the gaps between them are too long to be read for nothing.
  reads.clear();
  for (unsigned i = 0; i < 40; ++i) {
    reads.push_back({full.handles[i * 5], to[i].data(), kPageBytes, GetResult::corrupt});
  }
  full.rig.store.get_many(reads, full.rig.batch, full.rig.scratch);
  for (unsigned i = 0; i < 40; ++i) REQUIRE(to[i] == page(i * 5));
  REQUIRE(full.rig.store.stats().reads == 41);
  if (ring_descriptors().empty()) WARN("the kernel has no io_uring for us: the reads were made in turn");
  REQUIRE(full.rig.store.stats().io_rings == ring_descriptors().size());
  for (const int number : ring_descriptors()) REQUIRE(number >= 1000);
}

TEST_CASE("P4 without io_uring, or when its descriptor is lost, everything goes on in turn", "[paging]") {
  REQUIRE(in_child([] {
            FullFile full;
            if (!full.open() || !refuse_call(SYS_io_uring_setup, ENOSYS)) return kCannotTest;
            if (!read_scattered(full)) return 1;
            return full.rig.store.stats().io_rings == 0 && ring_descriptors().empty() ? 0 : 2;
          }) == 0);
  REQUIRE(in_child([] {
            FullFile full;
            if (!full.open()) return kCannotTest;
            if (!read_scattered(full)) return 1;
            for (const int number : ring_descriptors()) ::close(number);
            if (!read_scattered(full) || !read_scattered(full)) return 2;
            return full.rig.store.stats().failed_reads == 0 ? 0 : 3;
          }) == 0);
  REQUIRE(in_child([] {
            FullFile full;
            if (!full.open()) return kCannotTest;
            if (!read_scattered(full)) return 1;
            if (!refuse_call(SYS_io_uring_enter, EPERM)) return kCannotTest;
            return read_scattered(full) && read_scattered(full) ? 0 : 2;
          }) == 0);
}
