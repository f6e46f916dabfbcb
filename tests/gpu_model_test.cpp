// The emulated GPU against models: random calls on virtual memory against tables that are kept by hand, and
// random work in streams against doing the same work in the order of the calls. What would break: a wrong
// rule that no single test thought of.
#include <algorithm>
#include <map>
#include <vector>

#include "tests/gpu_rig.h"
#include "tests/random.h"

using namespace gpu_test;

namespace {

// Virtual memory as it should be. Every granule of physical memory has a word of its own in its first bytes.
class MemoryModel {
 public:
  MemoryModel(Rig& rig, std::uint64_t seed) : rig_(rig), random_(seed) {}

  void step() {
    switch (random_.below(8)) {
      case 0:
        return reserve();
      case 1:
        return free();
      case 2:
        return create();
      case 3:
        return release();
      case 4:
      case 5:
        return map();
      case 6:
        return unmap();
      default:
        return write_and_read();
    }
  }

  void check_counts() {
    const EmulatedGpu::Usage usage = rig_.emulated->usage();
    std::size_t live = 0, bytes = 0;
    for (const auto& [id, piece] : pieces_) {
      if (piece.handles == 0 && piece.mappings == 0) continue;
      ++live;
      bytes += piece.words.size() * kGranule;
    }
    expect_(usage.reservations == ranges_.size());
    expect_(usage.mappings == mappings_.size());
    expect_(usage.handles == live);
    expect_(usage.device_bytes == bytes);
  }

  void end() {
    while (!mappings_.empty()) unmap_exactly(mappings_.begin()->first, mappings_.begin()->second.count);
    for (auto& [handle, piece] : pieces_) {
      for (; piece.handles > 0; --piece.handles) expect_(rig_.driver.mem_release(handle) == Result::success);
    }
    for (const auto& [base, count] : ranges_) {
      expect_(rig_.driver.mem_address_free(base, count * kGranule) == Result::success);
    }
    REQUIRE(expect_.failed_line() == 0);
  }

 private:
  struct Piece {
    std::vector<std::uint32_t> words;  // 0: not written yet
    unsigned handles = 1, mappings = 0;
  };
  struct Mapped {
    std::uint64_t count;
    MemoryHandle piece;
    AccessFlags access;
  };

  [[nodiscard]] std::uint64_t used_granules() const {
    std::uint64_t used = 0;
    for (const auto& [handle, piece] : pieces_) {
      if (piece.handles != 0 || piece.mappings != 0) used += piece.words.size();
    }
    return used;
  }
  template <class Map>
  [[nodiscard]] auto any_of(Map& map) {
    auto found = map.begin();
    std::advance(found, static_cast<std::ptrdiff_t>(random_.below(map.size())));
    return found;
  }

  void reserve() {
    if (ranges_.size() >= 12) return;
    const std::uint64_t count = 1 + random_.below(6);
    DevicePointer base = 0;
    expect_(rig_.driver.mem_address_reserve(&base, count * kGranule, 0, 0, 0) == Result::success);
    for (const auto& [other, other_count] : ranges_) {
      expect_(base + count * kGranule <= other || other + other_count * kGranule <= base);
    }
    ranges_[base] = count;
  }

  void free() {
    if (ranges_.empty()) return;
    const auto range = any_of(ranges_);
    const auto [base, count] = *range;
    const bool is_used = std::any_of(mappings_.begin(), mappings_.end(), [&](const auto& entry) {
      return entry.first >= range->first && entry.first < range->first + range->second * kGranule;
    });
    const bool is_wrong_size = random_.one_in(4);
    const Result got = rig_.driver.mem_address_free(base, (count + (is_wrong_size ? 1 : 0)) * kGranule);
    expect_(got == (is_used || is_wrong_size ? Result::invalid_value : Result::success));
    if (got == Result::success) ranges_.erase(range);
  }

  void create() {
    const std::uint64_t count = 1 + random_.below(4);
    const AllocationProperties wanted = Rig::properties();
    MemoryHandle handle = 0;
    const Result got = rig_.driver.mem_create(&handle, count * kGranule, &wanted, 0);
    const bool has_room = used_granules() + count <= kCapacity;
    expect_(got == (has_room ? Result::success : Result::out_of_memory));
    if (got != Result::success) return;
    expect_(pieces_.count(handle) == 0);
    pieces_[handle].words.assign(count, 0);
  }

  void release() {
    if (pieces_.empty()) return;
    const auto piece = any_of(pieces_);
    if (piece->second.handles == 0) return;
    expect_(rig_.driver.mem_release(piece->first) == Result::success);
    --piece->second.handles;
  }

  void map() {
    if (ranges_.empty() || pieces_.empty()) return;
    const auto [base, range_count] = *any_of(ranges_);
    const auto piece = any_of(pieces_);
    const DevicePointer at = base + random_.below(range_count) * kGranule;
    const std::uint64_t count = 1 + random_.below(4);
    const bool is_inside = at + count * kGranule <= base + range_count * kGranule;
    const bool is_right =
        is_inside && piece->second.handles > 0 && count <= piece->second.words.size() && !overlaps(at, count);
    const Result got = rig_.driver.mem_map(at, count * kGranule, 0, piece->first, 0);
    expect_(got == (is_right ? Result::success : Result::invalid_value));
    if (got != Result::success) return;
    ++piece->second.mappings;
    const AccessFlags access = random_.one_in(4) ? kAccessRead : kAccessReadWrite;
    expect_(rig_.set_access(at, count * kGranule, access) == Result::success);
    mappings_[at] = {count, piece->first, access};
  }

  [[nodiscard]] bool overlaps(DevicePointer at, std::uint64_t count) const {
    return std::any_of(mappings_.begin(), mappings_.end(), [&](const auto& entry) {
      return at < entry.first + entry.second.count * kGranule && entry.first < at + count * kGranule;
    });
  }

  // Any run of granules from a mapping on: it must be made of whole mappings.
  void unmap() {
    if (mappings_.empty()) return;
    const DevicePointer at = any_of(mappings_)->first + (random_.one_in(5) ? kGranule : 0);
    const std::uint64_t count = 1 + random_.below(6);
    std::uint64_t covered = 0;
    while (covered < count) {
      const auto mapped = mappings_.find(at + covered * kGranule);
      if (mapped == mappings_.end()) break;
      covered += mapped->second.count;
    }
    if (covered == count) return unmap_exactly(at, count);
    expect_(rig_.driver.mem_unmap(at, count * kGranule) == Result::invalid_value);
  }

  void unmap_exactly(DevicePointer at, std::uint64_t count) {
    expect_(rig_.driver.mem_unmap(at, count * kGranule) == Result::success);
    for (std::uint64_t done = 0; done < count;) {
      const auto mapped = mappings_.find(at + done * kGranule);
      done += mapped->second.count;
      --pieces_[mapped->second.piece].mappings;
      mappings_.erase(mapped);
    }
  }

  void write_and_read() {
    if (mappings_.empty()) return;
    const auto [at, mapped] = *any_of(mappings_);
    const std::uint64_t granule = random_.below(mapped.count);
    const auto value = static_cast<std::uint32_t>(random_.next() | 1);
    std::uint32_t& word = pieces_[mapped.piece].words[granule];
    const DevicePointer address = at + granule * kGranule;
    std::uint32_t seen = 0;
    expect_(rig_.driver.memcpy_d2h(&seen, address, 4) == Result::success);
    if (word != 0) expect_(seen == word);
    const Result got = rig_.driver.memcpy_h2d(address, &value, 4);
    expect_(got == (mapped.access == kAccessReadWrite ? Result::success : Result::invalid_value));
    if (got == Result::success) word = value;
  }

  static constexpr std::uint64_t kCapacity = 16;  // granules of the device
  Rig& rig_;
  Random random_;
  Expect expect_;
  std::map<DevicePointer, std::uint64_t> ranges_;  // granules
  std::map<DevicePointer, Mapped> mappings_;
  std::map<MemoryHandle, Piece> pieces_;
};

EmulatedGpu::Options options_of(GpuSchedule schedule, std::uint64_t seed) {
  EmulatedGpu::Options options = small(schedule, seed);
  options.host_bytes = 16 * kMiB;
  return options;
}

// Words of device memory that several streams write and copy, with events for every dependency. With
// `omitted` one of the waits is left out. Answers whether all words are as if the work had been done in the
// order of the calls.
class StreamWork {
 public:
  static constexpr unsigned kStreams = 4, kWords = 6, kSteps = 40;

  StreamWork(Rig& rig, std::uint64_t seed) : rig_(rig), random_(seed) {}

  [[nodiscard]] bool run(unsigned omitted) {
    omitted_ = omitted;
    base_ = rig_.memory(kGranule);
    REQUIRE(rig_.driver.memset_d32_async(base_, 0, kWords + kSteps, nullptr) == Result::success);
    REQUIRE(rig_.driver.ctx_synchronize() == Result::success);
    for (Stream& stream : streams_) stream = rig_.stream();
    for (unsigned i = 0; i < kSteps; ++i) step(i + 1);
    REQUIRE(rig_.driver.ctx_synchronize() == Result::success);
    std::uint32_t seen[kWords + kSteps];
    REQUIRE(rig_.driver.memcpy_d2h(seen, base_, sizeof seen) == Result::success);
    for (const Event event : events_) CHECK(rig_.driver.event_destroy(event) == Result::success);
    for (const Stream stream : streams_) CHECK(rig_.driver.stream_destroy(stream) == Result::success);
    rig_.give_back(base_, kGranule);
    return std::equal(std::begin(seen), std::end(seen), std::begin(words_));
  }
  [[nodiscard]] unsigned waits() const { return waits_; }

 private:
  // A step of one stream: writes a word, or copies one to another, and notes what stands there then.
  void step(std::uint32_t value) {
    const unsigned by = random_.below32(kStreams), to = random_.below32(kWords),
                   from = random_.below32(kWords);
    const bool is_copy = random_.below(2) == 0 && to != from;
    wait_for(by, last_write_[to]);
    for (const Use& use : reads_[to]) wait_for(by, use);
    if (is_copy) wait_for(by, last_write_[from]);
    if (is_copy) {
      REQUIRE(rig_.copy_words(base_ + 4 * to, base_ + 4 * from, 1, streams_[by]) == Result::success);
      words_[to] = words_[from];
    } else {
      REQUIRE(rig_.store_word(base_ + 4 * to, value, streams_[by]) == Result::success);
      words_[to] = value;
    }
    const std::uint32_t note = kWords + value - 1;
    REQUIRE(rig_.copy_words(base_ + 4 * note, base_ + 4 * to, 1, streams_[by]) == Result::success);
    words_[note] = words_[to];
    events_.push_back(rig_.event());
    REQUIRE(rig_.driver.event_record(events_.back(), streams_[by]) == Result::success);
    const Use use = {by, events_.back()};
    last_write_[to] = use;
    reads_[to].clear();
    if (is_copy) reads_[from].push_back(use);
    if (random_.one_in(8)) static_cast<void>(rig_.driver.event_query(events_.back()));
  }

  struct Use {
    unsigned by = 0;
    Event event = nullptr;
  };
  void wait_for(unsigned by, const Use& use) {
    if (use.event == nullptr || use.by == by) return;
    if (++waits_ == omitted_) return;
    REQUIRE(rig_.driver.stream_wait_event(streams_[by], use.event, 0) == Result::success);
  }

  Rig& rig_;
  Random random_;
  DevicePointer base_ = 0;
  Stream streams_[kStreams] = {};
  std::uint32_t words_[kWords + kSteps] = {};  // behind the words the notes of the steps
  Use last_write_[kWords];
  std::vector<Use> reads_[kWords];
  std::vector<Event> events_;
  unsigned waits_ = 0, omitted_ = 0;
};

}  // namespace

TEST_CASE("X emulated GPU: random calls on virtual memory agree with a model", "[gpu]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  for (std::uint64_t round = 0; round < 10; ++round) {
    on_emulator(options_of(GpuSchedule::eager, seed + round), [&](Rig& rig) {
      MemoryModel model(rig, seed + round);
      for (int i = 0; i < 2000; ++i) {
        model.step();
        if (i % 50 == 0) model.check_counts();
      }
      model.end();
    });
  }
}

TEST_CASE("X3 emulated GPU: work in streams with all its events is as if done in order, in any schedule",
          "[gpu]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  unsigned wrong = 0;
  for (std::uint64_t i = 0; i < 100; ++i) {
    const auto once = [&](Rig& rig) { wrong += StreamWork(rig, seed + i).run(0) ? 0 : 1; };
    on_emulator(options_of(GpuSchedule::adversarial, seed + i), once);
    if (i % 10 == 0) on_emulator(options_of(GpuSchedule::threaded, seed + i), once);
    if (i % 10 == 0) on_emulator(options_of(GpuSchedule::eager, seed + i), once);
  }
  CHECK(wrong == 0);
}

TEST_CASE("X3 emulated GPU: one dependency that is left out of many is found", "[gpu]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  // Not each is needed: another wait may stand for it.
  unsigned found = 0;
  for (unsigned i = 0; i < 200; ++i) {
    on_emulator(options_of(GpuSchedule::adversarial, seed + i),
                [&](Rig& rig) { found += StreamWork(rig, seed + i).run(1 + i % 20) ? 0 : 1; });
  }
  INFO("seen in " << found << " of 200 orders");
  CHECK(found >= 10);
}
