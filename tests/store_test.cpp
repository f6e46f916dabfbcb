// The page store, call by call: what each tier keeps, what it costs, what comes back and what stays away from
// other people's files.
#include "src/paging/store.h"

#include <atomic>
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

#include "platform/process.h"
#include "src/base/bits.h"
#include "src/paging/compressed_tier.h"
#include "tests/store_rig.h"

#include "tests/catch.h"
#include "tests/heap_child.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

Bytes page(Kind kind, std::uint64_t seed) { return make_object(kind, kPageBytes, seed); }

StoreOptions with_files(const TestDirectory& directory) {
  StoreOptions options;
  options.directory = directory.path().c_str();
  return options;
}

}  // namespace

TEST_CASE("a page that repeats a word of 32 bits, or a small number, costs nothing", "[paging]") {
  StoreRig rig;
  REQUIRE(rig.open({}));
  const std::uint64_t words[] = {0,
                                 ~std::uint64_t{0},
                                 0xCCCCCCCCCCCCCCCC,
                                 0xDEADBEEFDEADBEEF,
                                 42,
                                 static_cast<std::uint64_t>(-42),
                                 (std::uint64_t{1} << 36) - 1,
                                 static_cast<std::uint64_t>(-(std::int64_t{1} << 36))};
  for (const std::uint64_t word : words) {
    for (const std::size_t size : {std::size_t{8}, std::size_t{13}, kPageBytes, kObjectBytesMax}) {
      Bytes bytes(size);
      for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(word >> i % 8 * 8);
      const Handle handle = rig.put(bytes);
      INFO("word " << word << ", size " << size);
      REQUIRE(handle != kNoObject);
      REQUIRE(handle_kind(handle) == HandleKind::fill);
      REQUIRE(rig.holds(handle, bytes));
      REQUIRE(rig.store.stats().same_filled_objects == 1);
      REQUIRE(rig.store.stats().object_bytes == size);
      REQUIRE(rig.store.compressed_bytes() == 0);
      rig.store.drop(handle);
      REQUIRE(rig.store.stats().objects == 0);
    }
  }
}

TEST_CASE("a page that repeats any other word takes the smallest slot", "[paging]") {
  StoreRig rig;
  REQUIRE(rig.open({}));
  for (std::uint64_t seed = 1; seed < 4; ++seed) {
    const Bytes bytes = page(Kind::word64, seed);
    const Handle handle = rig.put(bytes);
    REQUIRE(handle_kind(handle) == HandleKind::slot);
    REQUIRE(rig.holds(handle, bytes));
    REQUIRE(rig.store.stats().slot_bytes == 64);
    REQUIRE(rig.store.stats().compressed_bytes == 8);
    rig.store.drop(handle);
  }
}

TEST_CASE("what does not compress to 7/8 is refused and passed on", "[paging]") {
  for (const Codec codec : {Codec::lz4, Codec::zstd}) {
    const TestDirectory directory;
    StoreOptions options = with_files(directory);
    options.codec = codec;
    StoreRig rig;
    REQUIRE(rig.open(options));
    const Bytes noise = page(Kind::noise, 1);
    Handle handle = kNoObject;
    REQUIRE(rig.store.put(noise.data(), noise.size(), rig.scratch, &handle) == PutResult::incompressible);
    REQUIRE(handle == kNoObject);
    REQUIRE(rig.store.stats().incompressible == 1);
    REQUIRE(rig.store.compressed_bytes() == 0);
    const Handle on_file = rig.write(noise);
    REQUIRE(Store::is_on_file(on_file));
    REQUIRE(rig.holds(on_file, noise));
    REQUIRE(rig.store.stats().file_stored_bytes == noise.size());
  }
}

TEST_CASE("every size from one byte to the largest comes back from both tiers", "[paging]") {
  for (const Codec codec : {Codec::lz4, Codec::zstd}) {
    const TestDirectory directory;
    StoreOptions options = with_files(directory);
    options.codec = codec;
    StoreRig rig;
    REQUIRE(rig.open(options));
    Expect expect;
    for (std::size_t size = 1; size <= kObjectBytesMax; size += size < 700 ? 1 : 1237) {
      for (const Kind kind : {Kind::text, Kind::noise, Kind::word32}) {
        const Bytes bytes = make_object(kind, size, size);
        const Handle in_ram = rig.put(bytes);
        expect(in_ram == kNoObject || rig.holds(in_ram, bytes));
        rig.batch.clear();
        expect(in_ram != kNoObject ? rig.store.add(rig.batch, in_ram)
                                   : rig.store.add(rig.batch, bytes.data(), size, rig.scratch));
        expect(rig.store.write(rig.batch) == 1);
        expect(rig.holds(rig.batch.written(0), bytes));
        rig.store.drop(rig.batch.written(0));
        rig.store.drop(in_ram);
      }
    }
    REQUIRE(expect.failed_line() == 0);
    REQUIRE(rig.store.stats().objects == 0);
    REQUIRE(rig.store.stats().file_objects == 0);
  }
}

TEST_CASE("an object asked for with another size is corrupt, not read beyond its end", "[paging]") {
  const TestDirectory directory;
  StoreRig rig;
  REQUIRE(rig.open(with_files(directory)));
  const Bytes text = page(Kind::text, 5);
  const Handle handles[] = {rig.put(page(Kind::zero, 1)), rig.put(text), rig.write(text)};
  for (const Handle handle : handles) {
    for (const std::size_t size : {std::size_t{1}, kPageBytes - 1, kPageBytes + 1}) {
      Bytes to(size, std::byte{7});
      REQUIRE(rig.get(handle, to) == GetResult::corrupt);
      REQUIRE(to == Bytes(size, std::byte{7}));
    }
  }
}

TEST_CASE("G2 dropping nothing is harmless, dropping twice is found out", "[paging]") {
  const TestDirectory directory;
  StoreRig rig;
  REQUIRE(rig.open(with_files(directory)));
  rig.store.drop(kNoObject);
  REQUIRE(rig.store.stats().drops == 0);
  const Bytes text = page(Kind::text, 5);
  const Handle in_ram = rig.put(text);
  const Handle on_file = rig.write(text);
  rig.store.drop(in_ram);
  rig.store.drop(on_file);
  const auto drop_again = [&](Handle handle) {
    return in_child([&] {
      ::close(2);
      rig.store.drop(handle);
      return 0;
    });
  };
  REQUIRE(drop_again(in_ram) == 1000 + SIGABRT);
  REQUIRE(drop_again(on_file) == 1000 + SIGABRT);
  Bytes to(kPageBytes);
  REQUIRE(rig.get(on_file, to) == GetResult::corrupt);
  // The record is used again, under another generation.
  const Handle next = rig.write(text);
  REQUIRE(next != on_file);
  REQUIRE(rig.get(on_file, to) == GetResult::corrupt);
  REQUIRE(rig.holds(next, text));
}

TEST_CASE("V2 slabs that become empty give their memory back", "[paging]") {
  StoreRig rig;
  REQUIRE(rig.open({}));
  std::vector<Handle> handles;
  for (std::uint64_t i = 0; i < 4000; ++i) handles.push_back(rig.put(page(Kind::text, i)));
  const std::size_t full_bytes = rig.store.compressed_bytes();
  const std::size_t resident_full = os::process_memory().resident;
  REQUIRE(full_bytes > 4 * kMiB);
  REQUIRE(full_bytes < rig.store.stats().compressed_bytes * 12 / 10 + 2 * kMiB);
  for (const Handle handle : handles) rig.store.drop(handle);
  REQUIRE(rig.store.compressed_bytes() <= 4 * 64 * kKiB);
  rig.store.trim();
  REQUIRE(rig.store.compressed_bytes() == 0);
  REQUIRE(os::process_memory().resident + full_bytes * 3 / 4 < resident_full);
}

TEST_CASE("K2 the limit of the compressed tier holds, and can be changed", "[paging]") {
  StoreOptions options;
  // No multiple of a slab.
  constexpr std::size_t kLimit = kMiB + 1000;
  options.compressed_limit_bytes = kLimit;
  StoreRig rig;
  REQUIRE(rig.open(options));
  std::vector<Handle> handles;
  Handle handle = kNoObject;
  for (std::uint64_t i = 0; (handle = rig.put(page(Kind::text, i))) != kNoObject; ++i) {
    handles.push_back(handle);
    REQUIRE(rig.store.compressed_bytes() <= kLimit);
  }
  REQUIRE(rig.store.stats().full == 1);
  REQUIRE(rig.store.stats().compressed_bytes > kMiB * 3 / 4);
  rig.store.set_compressed_limit(2 * kMiB);
  REQUIRE(rig.put(page(Kind::text, 1)) != kNoObject);
  // Below what it holds: nothing is lost, nothing is added.
  rig.store.set_compressed_limit(0);
  REQUIRE(rig.put(page(Kind::text, 1)) == kNoObject);
  for (std::uint64_t i = 0; i < handles.size(); ++i) REQUIRE(rig.holds(handles[i], page(Kind::text, i)));
  // An object of another size class gets the slab that was emptied, although the limit is reached.
  rig.store.set_compressed_limit(kMiB);
  for (const Handle each : handles) rig.store.drop(each);
  const Bytes large = make_object(Kind::text, kObjectBytesMax, 3);
  REQUIRE(rig.holds(rig.put(large), large));
}

TEST_CASE("G11 a batch is one write, its objects are read and freed one by one", "[paging]") {
  const TestDirectory directory;
  StoreRig rig;
  REQUIRE(rig.open(with_files(directory)));
  std::vector<Bytes> contents;
  for (std::uint64_t i = 0; rig.store.add(rig.batch, page(Kind::noise, i).data(), kPageBytes); ++i) {
    contents.push_back(page(Kind::noise, i));
  }
  REQUIRE(rig.batch.count() == kBatchObjectsMax);
  REQUIRE(rig.store.write(rig.batch) == kBatchObjectsMax);
  StoreStats stats = rig.store.stats();
  REQUIRE(stats.writes == 1);
  REQUIRE(stats.written_bytes == kBatchBytes);
  REQUIRE(stats.file_live_bytes == kBatchBytes);
  REQUIRE(stats.file_length_bytes == kBatchBytes);
  for (unsigned i = 0; i < contents.size(); ++i) REQUIRE(rig.holds(rig.batch.written(i), contents[i]));
  stats = rig.store.stats();
  REQUIRE(stats.reads == kBatchObjectsMax);
  REQUIRE(stats.read_bytes == kBatchBytes);
  for (unsigned i = 0; i < contents.size(); i += 2) rig.store.drop(rig.batch.written(i));
  REQUIRE(rig.store.stats().file_live_bytes == kBatchBytes / 2);
  for (unsigned i = 1; i < contents.size(); i += 2) REQUIRE(rig.holds(rig.batch.written(i), contents[i]));
}

TEST_CASE("G11 0-18 gaps are used again, joined, and filled exactly", "[paging]") {
  const TestDirectory directory;
  StoreOptions options = with_files(directory);
  options.total_bytes_max = 16 * kPageBytes;
  StoreRig rig;
  REQUIRE(rig.open(options));
  std::vector<Handle> handles;
  for (std::uint64_t i = 0; i < 16; ++i) handles.push_back(rig.write(page(Kind::noise, i)));
  REQUIRE(rig.store.stats().file_free_bytes == 0);
  REQUIRE(rig.write(page(Kind::noise, 99)) == kNoObject);
  REQUIRE(rig.store.is_degraded());

  // One gap, filled exactly.
  rig.store.drop(handles[5]);
  REQUIRE(rig.store.stats().file_largest_free_bytes == kPageBytes);
  handles[5] = rig.write(page(Kind::noise, 5));
  REQUIRE(handles[5] != kNoObject);
  REQUIRE_FALSE(rig.store.is_degraded());
  REQUIRE(rig.store.stats().file_free_bytes == 0);

  // Three gaps that touch are one, whatever the order in which they came.
  for (const unsigned i : {9u, 11u, 10u}) rig.store.drop(handles[i]);
  REQUIRE(rig.store.stats().file_largest_free_bytes == 3 * kPageBytes);
  const Bytes three = make_object(Kind::noise, 3 * kPageBytes, 7);
  const Handle joined = rig.write(three);
  REQUIRE(joined != kNoObject);
  REQUIRE(rig.store.stats().file_free_bytes == 0);

  // Gaps that do not touch hold a batch in pieces.
  for (const unsigned i : {1u, 3u, 13u}) rig.store.drop(handles[i]);
  rig.batch.clear();
  for (const unsigned i : {1u, 3u, 13u}) {
    REQUIRE(rig.store.add(rig.batch, page(Kind::noise, i).data(), kPageBytes));
  }
  REQUIRE(rig.store.write(rig.batch) == 3);
  handles[1] = rig.batch.written(0);
  handles[3] = rig.batch.written(1);
  handles[13] = rig.batch.written(2);
  for (std::uint64_t i = 0; i < 16; ++i) {
    if (i < 9 || i > 11) REQUIRE(rig.holds(handles[i], page(Kind::noise, i)));
  }
  REQUIRE(rig.holds(joined, three));
}

TEST_CASE("N19 0-24 one object is written from where it lies: told between its checksum and the write",
          "[paging]") {
  const TestDirectory directory;
  StoreRig rig;
  REQUIRE(rig.open(with_files(directory)));
  struct Begun {
    std::byte* change;  // what is written to while the write is on its way; nullptr: nothing
    unsigned told;
    static void tell(void* raw) noexcept {
      Begun& own = *static_cast<Begun*>(raw);
      ++own.told;
      if (own.change != nullptr) *own.change ^= std::byte{1};
    }
  };
  alignas(kPageBytes) static std::byte memory[kObjectBytesMax];
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{513}, kPageBytes, 9 * kKiB + 5, kObjectBytesMax}) {
    const Bytes content = make_object(Kind::noise, size, size);
    std::copy(content.begin(), content.end(), memory);
    Begun quiet{nullptr, 0}, changed{&memory[size / 2], 0};
    const Handle kept = rig.store.write_one(memory, size, {Begun::tell, &quiet});
    REQUIRE(quiet.told == 1);
    REQUIRE(rig.holds(kept, content));
    const Handle torn = rig.store.write_one(memory, size, {Begun::tell, &changed});
    REQUIRE(changed.told == 1);
    REQUIRE(torn != kNoObject);
    Bytes got(size);
    REQUIRE(rig.store.get(torn, got.data(), size, rig.scratch) == GetResult::corrupt);
    REQUIRE(rig.holds(kept, content));
    rig.store.drop(torn);
  }
  const StoreStats stats = rig.store.stats();
  REQUIRE(stats.file_objects == 5);
  REQUIRE(stats.written_objects == 10);
  REQUIRE(stats.corrupt_reads == 5);
}

TEST_CASE("mut-A04 free space in an older file is used before a file grows or is made", "[paging]") {
  const TestDirectory directory;
  StoreOptions options = with_files(directory);
  options.file_bytes_max = 64 * kKiB;
  StoreRig rig;
  REQUIRE(rig.open(options));
  std::vector<Handle> handles;
  for (std::uint64_t i = 0; i < 48; ++i) handles.push_back(rig.write(page(Kind::noise, i)));
  REQUIRE(rig.store.stats().files == 3);
  for (unsigned i = 0; i < 16; ++i) rig.store.drop(handles[i]);
  for (std::uint64_t i = 0; i < 16; ++i) handles[i] = rig.write(page(Kind::noise, 100 + i));
  REQUIRE(rig.store.stats().files == 3);
  REQUIRE(rig.store.stats().file_length_bytes == 3 * 64 * kKiB);
  for (std::uint64_t i = 0; i < 48; ++i) {
    REQUIRE(rig.holds(handles[i], page(Kind::noise, i < 16 ? 100 + i : i)));
  }
}

TEST_CASE("mut-A05 what no file can hold is refused, and takes neither files nor space", "[paging]") {
  const TestDirectory directory;
  StoreOptions options = with_files(directory);
  options.file_bytes_max = 32 * kKiB;
  StoreRig rig;
  REQUIRE(rig.open(options));
  for (int tries = 0; tries < 20; ++tries) {
    REQUIRE(rig.write(make_object(Kind::noise, 33 * kKiB, 1)) == kNoObject);
  }
  StoreStats stats = rig.store.stats();
  REQUIRE(stats.files == 1);
  REQUIRE(stats.file_live_bytes == 0);
  REQUIRE(stats.file_objects == 0);
  REQUIRE(stats.failed_writes == 20);
  // A batch that is larger than any file goes into several.
  rig.batch.clear();
  for (std::uint64_t i = 0; i < 40; ++i)
    REQUIRE(rig.store.add(rig.batch, page(Kind::noise, i).data(), kPageBytes));
  REQUIRE(rig.store.write(rig.batch) == 40);
  REQUIRE(rig.store.stats().files == 5);
  for (unsigned i = 0; i < 40; ++i) REQUIRE(rig.holds(rig.batch.written(i), page(Kind::noise, i)));
}

TEST_CASE("0-18 0-20 what is free becomes holes, and a free tail is cut off", "[paging]") {
  const TestDirectory directory;
  for (const bool direct : {false, true}) {
    StoreOptions options = with_files(directory);
    options.direct_io = direct;
    StoreRig rig;
    REQUIRE(rig.open(options));
    std::vector<Handle> handles;
    for (unsigned batch = 0; batch < 8; ++batch) {
      rig.batch.clear();
      for (std::uint64_t i = 0; i < kBatchObjectsMax; ++i) {
        REQUIRE(rig.store.add(rig.batch, page(Kind::noise, batch * 1000 + i).data(), kPageBytes));
      }
      REQUIRE(rig.store.write(rig.batch) == kBatchObjectsMax);
      for (unsigned i = 0; i < kBatchObjectsMax; ++i) handles.push_back(rig.batch.written(i));
    }
    REQUIRE(rig.store.stats().file_allocated_bytes >= 8 * kMiB);
    REQUIRE(rig.store.stats().file_length_bytes == 8 * kMiB);
    // The second MiB becomes a hole, the last one is cut off.
    for (unsigned i = 256; i < 512; ++i) rig.store.drop(handles[i]);
    for (unsigned i = 7 * 256; i < 8 * 256; ++i) rig.store.drop(handles[i]);
    REQUIRE(rig.store.trim() >= 2 * kMiB);
    REQUIRE(rig.store.stats().file_allocated_bytes <= 6 * kMiB + 64 * kKiB);
    REQUIRE(rig.store.stats().file_length_bytes == 7 * kMiB);
    REQUIRE(rig.store.stats().file_largest_free_bytes == kMiB);
    REQUIRE(rig.store.trim() == 0);
    for (unsigned i = 0; i < 7 * 256; ++i) {
      if (i >= 256 && i < 512) continue;
      REQUIRE(rig.holds(handles[i], page(Kind::noise, i / 256 * 1000 + i % 256)));
      rig.store.drop(handles[i]);
    }
    rig.store.trim();
    REQUIRE(rig.store.stats().file_allocated_bytes == 0);
    REQUIRE(rig.store.stats().file_length_bytes == 0);
    REQUIRE(rig.store.stats().file_space_bytes == 0);
    REQUIRE(rig.holds(rig.write(page(Kind::noise, 3)), page(Kind::noise, 3)));
  }
}

TEST_CASE("G17 mut-A03 0-3 stores in one directory do not meet, and other files survive", "[paging]") {
  const TestDirectory directory;
  const std::string foreign = directory.path() + "/page_0.bin";
  std::ofstream(foreign) << "somebody's";
  {
    StoreRig rigs[3];
    std::vector<Handle> handles[3];
    for (std::uint64_t i = 0; i < 3; ++i) REQUIRE(rigs[i].open(with_files(directory)));
    for (std::uint64_t n = 0; n < 100; ++n) {
      for (std::uint64_t i = 0; i < 3; ++i) handles[i].push_back(rigs[i].write(page(Kind::noise, n * 3 + i)));
    }
    REQUIRE(directory.names() == std::vector<std::string>{"page_0.bin"});
    REQUIRE(nameless_files(directory.path()).size() == 3);
    rigs[1].store.close();
    for (std::uint64_t n = 0; n < 100; ++n) {
      REQUIRE(rigs[0].holds(handles[0][n], page(Kind::noise, n * 3)));
      REQUIRE(rigs[2].holds(handles[2][n], page(Kind::noise, n * 3 + 2)));
    }
  }
  REQUIRE(nameless_files(directory.path()).empty());
  std::string text;
  std::getline(std::ifstream(foreign), text);
  REQUIRE(text == "somebody's");
  REQUIRE(directory.names() == std::vector<std::string>{"page_0.bin"});
}

TEST_CASE("a directory that cannot be used is refused with a reason", "[paging]") {
  const TestDirectory directory;
  const std::string file = directory.path() + "/file";
  std::ofstream(file) << "x";
  const std::string missing = directory.path() + "/missing";
  for (const std::string& path : {file, missing, std::string("/proc"), std::string()}) {
    StoreOptions options;
    options.directory = path.c_str();
    Store store;
    INFO(path);
    const StoreProblem problem = store.open(options);
    REQUIRE((problem == StoreProblem::no_directory || problem == StoreProblem::no_file));
    REQUIRE_FALSE(store.is_open());
  }
  REQUIRE(directory.names() == std::vector<std::string>{"file"});
}

namespace {

// One of several threads that use a store at once, each with objects of its own.
class Worker {
 public:
  Worker(Store& store, std::uint64_t seed) : store_(store), random_(seed) {}

  std::atomic<unsigned> wrong{0}, moved{0};
  std::atomic<bool> is_open{false};

  void run(int steps) {
    if (!scratch_.open(Codec::lz4) || !batch_.open()) return;
    is_open = true;
    for (int step = 0; step < steps; ++step) {
      const std::uint64_t dice = random_.below(100);
      if (dice < 40) {
        put();
      } else if (dice < 75) {
        if (!known_.empty()) check(known_[random_.below(known_.size())]);
      } else if (dice < 96) {
        if (!known_.empty()) drop(random_.below(known_.size()));
      } else if (dice < 99) {
        write();
      } else {
        store_.trim();
        static_cast<void>(store_.stats());
      }
    }
    for (const Known& object : known_) check(object);
    while (!known_.empty()) drop(known_.size() - 1);
  }

 private:
  struct Known {
    Handle handle;
    std::uint64_t seed;
  };

  void put() {
    if (known_.size() >= 600) return;
    Known added{kNoObject, random_.next()};
    const Bytes bytes = page(Kind::text, added.seed);
    if (store_.put(bytes.data(), bytes.size(), scratch_, &added.handle) == PutResult::stored) {
      known_.push_back(added);
    }
  }
  void check(const Known& object) {
    const bool is_read = store_.get(object.handle, read_.data(), read_.size(), scratch_) == GetResult::ok;
    if (!is_read || read_ != page(Kind::text, object.seed)) wrong.fetch_add(1);
  }
  void drop(std::size_t index) {
    store_.drop(known_[index].handle);
    known_[index] = known_.back();
    known_.pop_back();
  }
  void write() {
    batch_.clear();
    std::vector<std::size_t> taken;
    for (std::size_t i = 0; i < known_.size() && taken.size() < 64; ++i) {
      if (!Store::is_on_file(known_[i].handle) && store_.add(batch_, known_[i].handle)) taken.push_back(i);
    }
    moved.fetch_add(store_.write(batch_));
    for (unsigned i = 0; i < batch_.count(); ++i) {
      if (batch_.written(i) == kNoObject) continue;
      store_.drop(known_[taken[i]].handle);
      known_[taken[i]].handle = batch_.written(i);
    }
  }

  Store& store_;
  Random random_;
  Scratch scratch_;
  Batch batch_;
  std::vector<Known> known_;
  Bytes read_ = Bytes(kPageBytes);
};

}  // namespace

TEST_CASE("K1 G15 mut-A06 four threads put, read, write and drop at once", "[paging]") {
  const TestDirectory directory;
  StoreOptions options = with_files(directory);
  options.compressed_limit_bytes = 4 * kMiB;
  options.file_bytes_max = 4 * kMiB;
  Store store;
  REQUIRE(store.open(options) == StoreProblem::none);
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  std::vector<std::unique_ptr<Worker>> workers;
  std::vector<std::thread> threads;
  for (std::uint64_t i = 0; i < 4; ++i) workers.push_back(std::make_unique<Worker>(store, seed + i));
  for (auto& worker : workers) threads.emplace_back([&worker] { worker->run(8000); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& worker : workers) {
    REQUIRE(worker->is_open);
    REQUIRE(worker->wrong == 0);
    REQUIRE(worker->moved > 100);
  }
  store.trim();
  const StoreStats stats = store.stats();
  REQUIRE(stats.objects == 0);
  REQUIRE(stats.slab_bytes == 0);
  REQUIRE(stats.file_objects == 0);
  REQUIRE(stats.file_space_bytes == 0);
  REQUIRE(stats.puts + stats.written_objects == stats.drops);
  REQUIRE(stats.corrupt_reads == 0);
}
