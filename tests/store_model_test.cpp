// Random calls against a simple model: what was put is there, byte for byte, whatever else happens, and the
// statistics equal a recount. One seed decides everything.
#include <algorithm>
#include <string>
#include <vector>

#include "src/paging/codec.h"
#include "src/paging/compressed_tier.h"
#include "src/paging/store.h"
#include "tests/store_rig.h"

#include "tests/catch.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

struct Known {
  Handle handle;
  Kind kind;
  std::uint32_t size_bytes;
  std::uint64_t seed;

  Bytes bytes() const { return make_object(kind, size_bytes, seed); }
};

struct Model {
  explicit Model(std::uint64_t seed) : random(seed) {}

  Random random;
  StoreRig rig;
  Expect expect;
  StoreOptions options;
  std::vector<Known> known;
  std::uint64_t puts = 0, gets = 0, drops = 0, incompressible = 0, full = 0, written = 0;

  Known invent() {
    static constexpr std::uint32_t kSizes[] = {4096, 4096, 4096, 4096, 8192, 16384, 65536};
    const std::uint32_t size = random.one_in(12) ? 1 + random.below32(kObjectBytesMax)
                                                 : kSizes[random.below(random.one_in(3) ? 7 : 4)];
    return Known{kNoObject, static_cast<Kind>(random.below(kKinds)), size, random.next()};
  }

  void put() {
    Known added = invent();
    const Bytes bytes = added.bytes();
    switch (rig.store.put(bytes.data(), bytes.size(), rig.scratch, &added.handle)) {
      case PutResult::stored:
        ++puts;
        expect(!Store::is_on_file(added.handle) && added.handle >> kHandleBits == 0);
        known.push_back(added);
        break;
      case PutResult::incompressible:
        ++incompressible;
        expect(added.kind == Kind::noise || added.size_bytes < 512);
        break;
      case PutResult::full:
        ++full;
        expect(rig.store.compressed_bytes() + 256 * kKiB > options.compressed_limit_bytes);
        break;
    }
  }

  void check(const Known& object) {
    ++gets;
    expect(rig.holds(object.handle, object.bytes()));
  }

  // Several at once, some of them twice.
  void check_many() {
    std::vector<std::size_t> chosen;
    std::vector<Bytes> read;
    std::vector<ObjectRead> reads;
    for (std::uint64_t count = random.below(90); count != 0; --count)
      chosen.push_back(random.below(known.size()));
    for (const std::size_t index : chosen) read.emplace_back(known[index].size_bytes, std::byte{1});
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      reads.push_back({known[chosen[i]].handle, read[i].data(), read[i].size(), GetResult::io_error});
    }
    rig.store.get_many(reads, rig.batch, rig.scratch);
    expect(rig.batch.count() == 0 || reads.empty() || chosen.empty() || !any_on_file(chosen));
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      expect(reads[i].result == GetResult::ok && read[i] == known[chosen[i]].bytes());
    }
    gets += reads.size();
  }
  bool any_on_file(const std::vector<std::size_t>& chosen) const {
    return std::any_of(chosen.begin(), chosen.end(),
                       [this](std::size_t index) { return Store::is_on_file(known[index].handle); });
  }

  void drop(std::size_t index) {
    rig.store.drop(known[index].handle);
    ++drops;
    known[index] = known.back();
    known.pop_back();
  }

  // Moves some objects of the compressed tier to the files, together with raw and freshly compressed ones.
  void write() {
    rig.batch.clear();
    std::vector<std::size_t> moved;
    std::vector<Known> fresh;
    std::vector<bool> is_fresh;
    for (std::uint64_t tries = 1 + random.below(40); tries != 0; --tries) {
      const bool takes_known = !known.empty() && !random.one_in(4);
      bool is_added = false;
      if (takes_known) {
        const std::size_t index = random.below(known.size());
        const bool is_twice = std::find(moved.begin(), moved.end(), index) != moved.end();
        if (Store::is_on_file(known[index].handle) || is_twice) continue;
        is_added = rig.store.add(rig.batch, known[index].handle);
        if (is_added) moved.push_back(index);
      } else {
        fresh.push_back(invent());
        const Bytes bytes = fresh.back().bytes();
        is_added = random.one_in(2) ? rig.store.add(rig.batch, bytes.data(), bytes.size())
                                    : rig.store.add(rig.batch, bytes.data(), bytes.size(), rig.scratch);
        if (!is_added) fresh.pop_back();
      }
      if (!is_added) break;
      is_fresh.push_back(!takes_known);
    }
    take_written(moved, fresh, is_fresh);
  }

  void take_written(const std::vector<std::size_t>& moved, const std::vector<Known>& fresh,
                    const std::vector<bool>& is_fresh) {
    const unsigned count = rig.store.write(rig.batch);
    unsigned seen = 0;
    std::size_t next_moved = 0;
    std::size_t next_fresh = 0;
    expect(rig.batch.count() == is_fresh.size());
    for (unsigned i = 0; i < rig.batch.count(); ++i) {
      const Handle handle = rig.batch.written(i);
      const bool is_written = handle != kNoObject;
      seen += is_written ? 1 : 0;
      expect(!is_written || (Store::is_on_file(handle) && handle >> kHandleBits == 0));
      if (is_fresh[i]) {
        Known added = fresh[next_fresh++];
        added.handle = handle;
        if (is_written) known.push_back(added);
      } else {
        Known& object = known[moved[next_moved++]];
        if (!is_written) continue;
        rig.store.drop(object.handle);
        ++drops;
        object.handle = handle;
      }
    }
    expect(seen == count);
    written += count;
  }

  void step() {
    const std::uint64_t dice = random.below(100);
    const bool is_crowded = known.size() > 1500;
    if (dice < 30 && !is_crowded) {
      put();
    } else if (dice < 55) {
      if (!known.empty()) check(known[random.below(known.size())]);
    } else if (dice < 96) {
      if (!known.empty() && (is_crowded || dice < 84)) drop(random.below(known.size()));
    } else if (dice < 99 || random.one_in(8)) {
      write();
    } else if (random.one_in(4)) {
      if (!known.empty()) check_many();
    } else if (random.one_in(10)) {
      rig.store.trim();
    } else if (random.one_in(20)) {
      while (known.size() > 50) drop(random.below(known.size()));
    }
  }

  // What the codec makes of an object that lies in a slot.
  std::size_t stored_bytes(const Known& object) {
    if (object.kind == Kind::zero || object.kind == Kind::word32 || object.kind == Kind::word64) return 8;
    const Bytes bytes = object.bytes();
    const std::optional<Stored> stored = compress(options.codec, bytes, bytes.size(), rig.scratch);
    expect(stored.has_value());
    return stored->stored_bytes;
  }

  void recount() {
    std::size_t objects = 0, bytes = 0, stored = 0, slots = 0, on_file = 0, on_file_bytes = 0;
    for (const Known& object : known) {
      if (Store::is_on_file(object.handle)) {
        ++on_file;
        on_file_bytes += object.size_bytes;
        continue;
      }
      ++objects;
      bytes += object.size_bytes;
      if (handle_kind(object.handle) == HandleKind::slot) {
        ++slots;
        stored += stored_bytes(object);
      }
    }
    const StoreStats stats = rig.store.stats();
    expect(stats.objects == objects && stats.object_bytes == bytes);
    expect(stats.compressed_bytes == stored);
    expect(stats.slot_bytes >= stored + 8 * slots && stats.slab_bytes >= stats.slot_bytes);
    expect(stats.slab_bytes == rig.store.compressed_bytes());
    expect(stats.slab_bytes <= options.compressed_limit_bytes);
    expect(stats.file_objects == on_file && stats.file_object_bytes == on_file_bytes);
    expect(stats.file_live_bytes + stats.file_free_bytes == stats.file_space_bytes);
    expect(stats.file_live_bytes >= stats.file_stored_bytes && stats.file_live_bytes % 512 == 0);
    expect(stats.file_space_bytes <= options.total_bytes_max);
    expect(stats.file_length_bytes <= stats.file_space_bytes);
    expect(stats.file_largest_free_bytes <= stats.file_free_bytes);
    expect(stats.puts == puts && stats.gets == gets && stats.drops == drops);
    expect(stats.incompressible == incompressible && stats.full == full);
    expect(stats.written_objects == written && stats.corrupt_reads == 0 && stats.failed_reads == 0);
  }

  void run(std::uint64_t steps) {
    for (std::uint64_t i = 0; i < steps && expect.failed_line() == 0; ++i) {
      step();
      if (i % 5000 == 0) recount();
    }
    for (const Known& object : known) check(object);
    recount();
    while (!known.empty()) drop(known.size() - 1);
    rig.store.trim();
    const StoreStats end = rig.store.stats();
    expect(end.objects == 0 && end.object_bytes == 0 && end.same_filled_objects == 0);
    expect(end.compressed_bytes == 0 && end.slot_bytes == 0 && end.slab_bytes == 0);
    expect(end.file_objects == 0 && end.file_stored_bytes == 0 && end.file_live_bytes == 0);
    expect(end.file_space_bytes == 0 && end.file_length_bytes == 0 && end.file_allocated_bytes == 0);
  }
};

void run_model(std::uint64_t steps, const StoreOptions& chosen) {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  const TestDirectory directory;
  Model model(seed);
  model.options = chosen;
  model.options.directory = directory.path().c_str();
  REQUIRE(model.rig.open(model.options));
  model.run(steps);
  INFO("put " << model.puts << ", full " << model.full << ", written " << model.written << ", failed "
              << model.rig.store.stats().failed_writes);
  CHECK(model.expect.failed_line() == 0);
  CHECK(model.full != 0);
  CHECK(model.rig.store.stats().failed_writes != 0);
  CHECK(model.rig.store.stats().files > 1);
  CHECK(directory.names().empty());
}

}  // namespace

TEST_CASE("G1 G2 G11 0-18 a store keeps every byte under random calls and tight caps, lz4", "[paging]") {
  StoreOptions options;
  options.compressed_limit_bytes = kMiB;
  options.file_bytes_max = 2 * kMiB;
  options.total_bytes_max = 7 * kMiB;
  run_model(160'000, options);
}

TEST_CASE("G1 G2 G11 a store keeps every byte under random calls and tight caps, zstd and direct I/O",
          "[paging]") {
  StoreOptions options;
  options.codec = Codec::zstd;
  options.compressed_limit_bytes = 768 * kKiB;
  options.file_bytes_max = kMiB + 512 * 3;
  options.total_bytes_max = 5 * kMiB;
  options.direct_io = true;
  options.io_uring = false;
  run_model(60'000, options);
}
