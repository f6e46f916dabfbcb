// The coalescing engine: runs of units inside ranges, found by two-level segregated bins (namespace
// glebe::placement). It places medium blocks, chunks, device addresses and page-file offsets.
//
// Units are numbered from 0; what a unit is, the caller decides, and the engine never touches it. Its own
// data is a table of 16-byte tags outside, one per unit, of which only those of the first and the last unit
// of a run are used (boundary tags): a free run finds its neighbours in constant time. Several engines may
// share one table, each with ranges of its own: the ends of a range are barriers, marked in its first and
// last tag, and no tag outside the engine's ranges is read, so engines under different locks do not race.
// Bins: exact lengths up to 15, then 8 per doubling; see TlsfPolicy. Same calls, same answers. Not
// thread-safe: the caller's lock guards the engine and the tags of its ranges. All-zero memory is an engine
// without ranges and capacity.
#pragma once

#include <cstdint>
#include <span>

#include "src/base/bits.h"
#include "src/placement/result.h"

namespace glebe::placement {

inline constexpr std::uint32_t kTlsfUnitsMax = std::uint32_t{1} << 31;  // units are 0 .. kTlsfUnitsMax - 1
inline constexpr std::uint32_t kNoUnit = ~std::uint32_t{0};

// What the engine knows about one unit; zero when the unit belongs to no range. While a run is handed out,
// the fields marked (caller) of its first tag belong to the caller: owner and mark start as 0, the links as
// anything.
struct Tag {
  std::uint32_t length;    // in the first tag of every run and in the last tag of a free one
  std::uint32_t previous;  // (caller) free: links of the bin, as unit + 1; 0 is none
  std::uint32_t next;      // (caller)
  std::uint16_t owner;     // (caller)
  std::uint8_t mark;       // (caller)
  std::uint8_t state;      // bits of Tlsf::TagState
};
static_assert(sizeof(Tag) == 16);

// Units [first, first + length). A failed call says why in `status`, and then the other fields are 0.
struct Run {
  std::uint32_t first = 0;
  std::uint32_t length = 0;
  Status status = Status::exhausted;

  [[nodiscard]] constexpr bool empty() const noexcept { return status != Status::ok; }
};

struct Range {
  std::uint32_t first = 0;
  std::uint32_t count = 0;
};

// Byte offset of a unit, or bytes in a number of units.
[[nodiscard]] constexpr std::uint64_t unit_offset(std::uint32_t units, std::uint64_t unit_bytes) noexcept {
  return std::uint64_t{units} * unit_bytes;
}

// How a run is chosen. first: the own bin, then the head of the next one. best_fit: the shortest of up to
// kBestCandidates runs per bin, the lowest address among equals; slower, leaves fewer fragments.
enum class TlsfPolicy : std::uint8_t { first, best_fit };

class Tlsf {
 public:
  constexpr Tlsf() noexcept = default;
  Tlsf(const Tlsf&) = delete;
  Tlsf& operator=(const Tlsf&) = delete;

  // Makes an engine without ranges over units [0, capacity_units), capacity_units <= kTlsfUnitsMax. tags[u]
  // is accessed only for units u of ranges that were added; there it is zero at first. The engine forgets
  // what it held.
  void attach(Tag* tags, std::uint32_t capacity_units, TlsfPolicy policy = TlsfPolicy::first) noexcept;

  // Adds units that are free. bad_argument: empty or beyond the capacity; in_use: its first or last unit lies
  // at the end of a range that is there (that ranges do not overlap otherwise is the caller's duty).
  [[nodiscard]] Status add_range(std::uint32_t first, std::uint32_t count) noexcept;
  // Adds `extra` units right behind a range, exactly as it is so far; they are free and merge with what is
  // free in front. bad_argument, in_use as above; out_of_range: not a range of this engine.
  [[nodiscard]] Status extend_range(std::uint32_t first, std::uint32_t count, std::uint32_t extra) noexcept;
  // Takes a whole range away, exactly as it was added and extended. in_use: something in it is not free;
  // out_of_range: not a range of this engine. Its tags stay readable for free(), and only their owner clears
  // them.
  [[nodiscard]] Status remove_range(std::uint32_t first, std::uint32_t count) noexcept;

  // Takes the last `removed` units off a range, exactly as it is so far; they can be added again by
  // extend_range(). in_use: not all of them are free; bad_argument: none, or all units of the range
  // (remove_range() does that); out_of_range: not a range of this engine.
  [[nodiscard]] Status shrink_range(std::uint32_t first, std::uint32_t count, std::uint32_t removed) noexcept;
  // How many units are free at the end of a range; 0 when it is none of this engine.
  [[nodiscard]] std::uint32_t free_at_end(std::uint32_t first, std::uint32_t count) const noexcept;

  // A run of `length` units, the first one a multiple of `align_units` (a power of two; unit 0 is aligned to
  // everything). bad_argument: length 0, or not a power of two; too_large: above the capacity; exhausted: no
  // room. A run that fits is found as long as no bin that may hold one has more than kLastResortRuns runs.
  [[nodiscard]] Run allocate(std::uint32_t length) noexcept;
  [[nodiscard]] Run allocate(std::uint32_t length, std::uint32_t align_units) noexcept;

  // The units [first, first + length) of the free run that starts at `free_first`. bad_argument: length 0, or
  // no free run starts there; exhausted: they do not all lie in it.
  [[nodiscard]] Run allocate_at(std::uint32_t free_first, std::uint32_t first, std::uint32_t length) noexcept;

  // Gives a run back; the answer is the free run that it is part of now. double_free: a free run starts here,
  // or a run that started here was given back and its units are still free. out_of_range: no run starts here.
  // `first` lies in a range of this engine, or in none of any engine that shares the tags.
  Run free(std::uint32_t first) noexcept;
  // The same for a run that nobody was told of: to free it is a double_free then only if a run that started
  // here was given back before.
  Run withdraw(std::uint32_t first) noexcept;

  // Change the length of a run that is handed out. grow_in_place answers with the run; exhausted: the units
  // behind it are not free, nothing changed. shrink answers with the free run that the tail is part of now
  // (empty when the length stays). bad_argument: the new length is 0 or lies on the wrong side of the old
  // one.
  [[nodiscard]] Run grow_in_place(std::uint32_t first, std::uint32_t new_length) noexcept;
  [[nodiscard]] Run shrink(std::uint32_t first, std::uint32_t new_length) noexcept;

  // Cuts a run that is handed out behind its first `length` units; both parts are then runs that are handed
  // out and freed on their own. The answer is the second part. bad_argument: one part would be empty.
  [[nodiscard]] Run split(std::uint32_t first, std::uint32_t length) noexcept;

  // Takes exactly the free run that starts here out of the bins, so that it is neither placed nor merged, and
  // returns its length; 0 when no free run starts here. put_back() makes it free again and answers like
  // free(). Between the two, free() of its first unit is a double_free.
  [[nodiscard]] std::uint32_t take_free_run(std::uint32_t first) noexcept;
  // The same for the units [first, first + length) of the free run that starts at `free_first`; answers like
  // allocate_at().
  [[nodiscard]] Run take_at(std::uint32_t free_first, std::uint32_t first, std::uint32_t length) noexcept;
  Run put_back(std::uint32_t first) noexcept;

  // What starts at a unit; any value is allowed for `unit`.
  [[nodiscard]] bool is_allocated_start(std::uint32_t unit) const noexcept {
    return has_state(unit, kAllocated);
  }
  [[nodiscard]] bool is_free_start(std::uint32_t unit) const noexcept { return has_state(unit, kFree); }
  // Whether a run started here that was freed, and its units are free or taken now.
  [[nodiscard]] bool was_freed(std::uint32_t unit) const noexcept {
    return has_state(unit, kFormer) && has_state(run_containing(unit), kFree | kTaken);
  }
  // Length of the run, free or not, that starts here; 0 when none does.
  [[nodiscard]] std::uint32_t run_length(std::uint32_t unit) const noexcept {
    return has_state(unit, kAnyRun) ? tags_[unit].length : 0;
  }
  // Start of the run behind the one that starts at `first`; kNoUnit at the end of the range.
  [[nodiscard]] std::uint32_t next_run(std::uint32_t first) const noexcept;
  // Length of the free run that ends right before `unit`, which lies in a range of this engine; 0: none does.
  [[nodiscard]] std::uint32_t free_before(std::uint32_t unit) const noexcept;
  // Start of the run that holds `unit`, which lies in a range of this engine. Walks over the tags before it.
  [[nodiscard]] std::uint32_t run_containing(std::uint32_t unit) const noexcept;

  // The tag of a run that is handed out, for its (caller) fields.
  [[nodiscard]] Tag& tag(std::uint32_t first) noexcept { return tags_[first]; }
  [[nodiscard]] const Tag& tag(std::uint32_t first) const noexcept { return tags_[first]; }
  // is_allocated_start() for whoever holds the run, without the engine and without its lock: the first tag of
  // a run that is handed out changes only by free, grow_in_place and shrink of that run.
  [[nodiscard]] static bool is_allocated(const Tag& tag) noexcept { return (tag.state & kAllocated) != 0; }

  [[nodiscard]] std::uint32_t free_units() const noexcept { return free_units_; }
  [[nodiscard]] std::uint32_t range_units() const noexcept { return range_units_; }  // free or not
  [[nodiscard]] std::uint32_t range_count() const noexcept { return range_count_; }
  [[nodiscard]] std::uint32_t capacity_units() const noexcept { return capacity_; }
  // Length of the longest free run. Walks the highest bin that is not empty.
  [[nodiscard]] std::uint32_t largest_free() const noexcept;

  // Walks everything in `ranges`, which are all ranges of this engine, and tells whether tags, bins, bitmaps
  // and counters agree and no two free runs of a range touch. For tests and debug builds. The second form
  // asks next(context, &range) for one range after the other until it answers false.
  [[nodiscard]] bool validate(std::span<const Range> ranges) const noexcept;
  using NextRange = bool (*)(void* context, Range* range);
  [[nodiscard]] bool validate(NextRange next, void* context) const noexcept;

  static constexpr unsigned kFirstCandidates = 4;
  static constexpr unsigned kBestCandidates = 16;
  static constexpr unsigned kLastResortRuns = 256;

 private:
  struct Request {
    std::uint32_t length, align_units;
  };
  struct Census {  // what validate() counted
    std::uint64_t free_units = 0, range_units = 0, free_runs = 0;
  };

  // Bits of Tag::state. The first three stand in the first tag of a run.
  enum TagState : std::uint8_t {
    kAllocated = 1,
    kFree = 2,
    kTaken = 4,        // see take_free_run()
    kFreeEnd = 8,      // the last tag of a free run
    kRangeFirst = 16,  // barriers: stay as long as the range
    kRangeLast = 32,
    kFormer = 64,  // a run started here and was given back
    kAnyRun = kAllocated | kFree | kTaken,
    kBarrier = kRangeFirst | kRangeLast,
  };

  static constexpr unsigned kExactBits = 3;  // 2^kExactBits bins per doubling
  static constexpr unsigned kBinCount = (31 - kExactBits) * 8 + 16;
  static constexpr unsigned kWordCount = (kBinCount + 63) / 64;

  [[nodiscard]] static unsigned bin_of(std::uint32_t length) noexcept {
    const unsigned shift = log2_floor(length | (1u << kExactBits)) - kExactBits;
    return (shift << kExactBits) + (length >> shift);
  }
  [[nodiscard]] bool is_known(std::uint32_t unit) const noexcept { return unit - lowest_ < extent_; }
  [[nodiscard]] bool has_state(std::uint32_t unit, unsigned bits) const noexcept {
    return is_known(unit) && (tags_[unit].state & bits) != 0;
  }

  // Bins. A link is unit + 1, and 0 is none, so that zeroed memory holds empty bins.
  void insert(std::uint32_t first, std::uint32_t length) noexcept;
  void unlink(std::uint32_t first, std::uint32_t length) noexcept;
  [[nodiscard]] unsigned next_bin(unsigned bin) const noexcept;

  // Searches; each answers with a link.
  [[nodiscard]] std::uint32_t find_first(std::uint32_t length) const noexcept;
  [[nodiscard]] std::uint32_t find_slow(Request request, unsigned candidates) const noexcept;
  [[nodiscard]] std::uint32_t find_last_resort(Request request) const noexcept;
  [[nodiscard]] std::uint32_t best_in_bin(unsigned bin, Request request, unsigned& candidates) const noexcept;
  [[nodiscard]] bool fits(std::uint32_t first, Request request) const noexcept;

  Run carve(std::uint32_t first, std::uint32_t run_length, std::uint32_t length) noexcept;
  Run carve_at(std::uint32_t first, std::uint32_t start, std::uint32_t length) noexcept;
  [[nodiscard]] Status refusal(std::uint32_t first) const noexcept;

  [[nodiscard]] bool validate_range(const Range& range, Census& census) const noexcept;
  [[nodiscard]] bool validate_run(std::uint32_t first, std::uint32_t end, Census& census) const noexcept;
  [[nodiscard]] bool validate_bin(unsigned bin, std::uint64_t& free_runs) const noexcept;

  Tag* tags_ = nullptr;
  std::uint32_t lowest_ = 0;  // units of all ranges lie in [lowest_, lowest_ + extent_)
  std::uint32_t extent_ = 0;
  std::uint32_t capacity_ = 0;
  TlsfPolicy policy_ = TlsfPolicy::first;
  std::uint32_t free_units_ = 0;
  std::uint32_t range_units_ = 0;
  std::uint32_t range_count_ = 0;
  std::uint32_t nonempty_words_ = 0;  // bit w: nonempty_bins_[w] is not 0
  std::uint64_t nonempty_bins_[kWordCount] = {};
  std::uint32_t heads_[kBinCount] = {};
};

}  // namespace glebe::placement
