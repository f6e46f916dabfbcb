// The coalescing engine; see tlsf.h. Order: the two calls that matter for speed, what they are made of, the
// rarer calls, and the walk that proves the tables consistent.
//
// Invariant between calls: units inside a run have no bit of kAnyRun and no kFreeEnd, except that the last
// unit of a free run has kFreeEnd; so the unit before a run's start tells by one bit whether the left
// neighbour is free.
#include "src/placement/tlsf.h"

#include "src/base/check.h"

namespace glebe::placement {

namespace {

constexpr Run refuse(Status status) noexcept { return Run{0, 0, status}; }

constexpr std::uint8_t bits(unsigned value) noexcept { return static_cast<std::uint8_t>(value); }

}  // namespace

Run Tlsf::allocate(std::uint32_t length) noexcept {
  if (length - 1 >= capacity_) [[unlikely]] {
    return refuse(length == 0 ? Status::bad_argument : Status::too_large);
  }
  std::uint32_t link =
      policy_ == TlsfPolicy::first ? find_first(length) : find_slow({length, 1}, kBestCandidates);
  if (link == 0) [[unlikely]] {
    link = find_last_resort({length, 1});
    if (link == 0) return refuse(Status::exhausted);
  }
  const std::uint32_t first = link - 1;
  const std::uint32_t run_length = tags_[first].length;
  unlink(first, run_length);
  return carve(first, run_length, length);
}

Run Tlsf::free(std::uint32_t first) noexcept {
  if (!has_state(first, kAllocated)) return refuse(refusal(first));
  Tag* const tags = tags_;
  Tag& own = tags[first];
  std::uint32_t start = first;
  std::uint32_t length = own.length;
  std::uint32_t last = first + length - 1;
  free_units_ += length;
  own.state = bits((own.state & kBarrier) | kFree | kFormer);
  if ((own.state & kRangeFirst) == 0 && (tags[first - 1].state & kFreeEnd) != 0) {
    const std::uint32_t left = tags[first - 1].length;
    start = first - left;
    length += left;
    unlink(start, left);
    tags[first - 1].state &= bits(~unsigned{kFreeEnd});
    own.state &= bits(~unsigned{kFree});
  }
  if ((tags[last].state & kRangeLast) == 0 && (tags[last + 1].state & kFree) != 0) {
    Tag& neighbour = tags[last + 1];
    const std::uint32_t right = neighbour.length;
    unlink(last + 1, right);
    neighbour.state &= bits(~unsigned{kFree});
    length += right;
    last += right;
  } else {
    tags[last].state |= kFreeEnd;
  }
  tags[last].length = length;
  tags[start].length = length;
  insert(start, length);
  return Run{start, length, Status::ok};
}

Run Tlsf::withdraw(std::uint32_t first) noexcept {
  const unsigned former = has_state(first, kFormer) ? kFormer : 0;
  const Run freed = free(first);
  if (!freed.empty()) tags_[first].state = bits((tags_[first].state & ~unsigned{kFormer}) | former);
  return freed;
}

// Hands out the first `length` units of a free run that is in no bin; the rest becomes a free run again.
[[gnu::always_inline]] inline Run Tlsf::carve(std::uint32_t first, std::uint32_t run_length,
                                              std::uint32_t length) noexcept {
  Tag* const tags = tags_;
  const std::uint32_t last = first + run_length - 1;
  const std::uint32_t rest = run_length - length;
  if (rest != 0) {
    const std::uint32_t tail = first + length;
    tags[tail].state |= kFree;
    tags[tail].length = rest;
    tags[last].length = rest;
    insert(tail, rest);
  } else {
    tags[last].state &= bits(~unsigned{kFreeEnd});
  }
  free_units_ -= length;
  Tag& own = tags[first];
  own.length = length;
  own.owner = 0;
  own.mark = 0;
  own.state = bits((own.state & (kBarrier | kFormer)) | kAllocated);
  return Run{first, length, Status::ok};
}

[[gnu::always_inline]] inline void Tlsf::insert(std::uint32_t first, std::uint32_t length) noexcept {
  const unsigned bin = bin_of(length);
  const std::uint32_t head = heads_[bin];
  tags_[first].previous = 0;
  tags_[first].next = head;
  heads_[bin] = first + 1;
  if (head != 0) {
    tags_[head - 1].previous = first + 1;
  } else {
    nonempty_bins_[bin / 64] |= std::uint64_t{1} << (bin % 64);
    nonempty_words_ |= 1u << (bin / 64);
  }
}

[[gnu::always_inline]] inline void Tlsf::unlink(std::uint32_t first, std::uint32_t length) noexcept {
  const std::uint32_t previous = tags_[first].previous;
  const std::uint32_t next = tags_[first].next;
  if (next != 0) tags_[next - 1].previous = previous;
  if (previous != 0) {
    tags_[previous - 1].next = next;
    return;
  }
  const unsigned bin = bin_of(length);
  heads_[bin] = next;
  if (next != 0) return;
  nonempty_bins_[bin / 64] &= ~(std::uint64_t{1} << (bin % 64));
  if (nonempty_bins_[bin / 64] == 0) nonempty_words_ &= ~(1u << (bin / 64));
}

// The lowest bin >= `bin` that is not empty, or kBinCount.
unsigned Tlsf::next_bin(unsigned bin) const noexcept {
  if (bin >= kBinCount) [[unlikely]]
    return kBinCount;
  const unsigned word = bin / 64;
  const std::uint64_t here = nonempty_bins_[word] & (~std::uint64_t{0} << (bin % 64));
  if (here != 0) return word * 64 + static_cast<unsigned>(std::countr_zero(here));
  const std::uint32_t words = nonempty_words_ & (~std::uint32_t{1} << word);
  if (words == 0) return kBinCount;
  const unsigned other = static_cast<unsigned>(std::countr_zero(words));
  return other * 64 + static_cast<unsigned>(std::countr_zero(nonempty_bins_[other]));
}

// Of the first runs in the request's own bin one of exactly its length, else the shortest that fits, else the
// head of the next bin, where everything fits.
[[gnu::always_inline]] inline std::uint32_t Tlsf::find_first(std::uint32_t length) const noexcept {
  const unsigned bin = bin_of(length);
  std::uint32_t best = 0;
  std::uint32_t best_length = kNoUnit;
  std::uint32_t link = heads_[bin];
  for (unsigned seen = 0; link != 0 && seen < kFirstCandidates; ++seen) {
    const Tag& candidate = tags_[link - 1];
    if (candidate.length == length) return link;
    if (candidate.length > length && candidate.length < best_length) {
      best = link;
      best_length = candidate.length;
    }
    link = candidate.next;
  }
  if (best != 0) return best;
  const unsigned above = next_bin(bin + 1);
  return above < kBinCount ? heads_[above] : 0;
}

// Looks at up to `candidates` runs of the two lowest bins that may hold a fit, then takes a run of a bin so
// high that its place does not matter.
std::uint32_t Tlsf::find_slow(Request request, unsigned candidates) const noexcept {
  unsigned bin = bin_of(request.length);
  for (unsigned tries = 0; tries < 2 && bin < kBinCount; ++tries) {
    unsigned left = candidates;
    const std::uint32_t link = best_in_bin(bin, request, left);
    if (link != 0) return link;
    bin = next_bin(bin + 1);
  }
  const std::uint64_t need = std::uint64_t{request.length} + request.align_units - 1;
  if (need > kTlsfUnitsMax) return 0;
  bin = next_bin(bin_of(static_cast<std::uint32_t>(need)) + 1);
  return bin < kBinCount ? best_in_bin(bin, request, candidates) : 0;
}

// Before a request is refused: every bin that may hold a fit, up to a bound for each.
std::uint32_t Tlsf::find_last_resort(Request request) const noexcept {
  for (unsigned bin = next_bin(bin_of(request.length)); bin < kBinCount; bin = next_bin(bin + 1)) {
    unsigned left = kLastResortRuns;
    const std::uint32_t link = best_in_bin(bin, request, left);
    if (link != 0) return link;
  }
  return 0;
}

// The shortest run that fits among the first `candidates` of a bin, the lowest one among equals.
std::uint32_t Tlsf::best_in_bin(unsigned bin, Request request, unsigned& candidates) const noexcept {
  std::uint32_t best = 0;
  std::uint32_t best_length = kNoUnit;
  for (std::uint32_t link = heads_[bin]; link != 0 && candidates != 0; --candidates) {
    const Tag& candidate = tags_[link - 1];
    const bool is_better = candidate.length < best_length || (candidate.length == best_length && link < best);
    if (is_better && fits(link - 1, request)) {
      best = link;
      best_length = candidate.length;
    }
    link = candidate.next;
  }
  return best;
}

bool Tlsf::fits(std::uint32_t first, Request request) const noexcept {
  const std::uint64_t start = align_up(first, request.align_units);
  return start + request.length <= std::uint64_t{first} + tags_[first].length;
}

Run Tlsf::allocate(std::uint32_t length, std::uint32_t align_units) noexcept {
  if (align_units == 1) return allocate(length);
  if (align_units == 0 || (align_units & (align_units - 1)) != 0) return refuse(Status::bad_argument);
  if (length - 1 >= capacity_) return refuse(length == 0 ? Status::bad_argument : Status::too_large);
  const Request request{length, align_units};
  const bool is_best = policy_ == TlsfPolicy::best_fit;
  std::uint32_t link = find_slow(request, is_best ? kBestCandidates : kFirstCandidates);
  if (link == 0) link = find_last_resort(request);
  if (link == 0) return refuse(Status::exhausted);

  return carve_at(link - 1, static_cast<std::uint32_t>(align_up(link - 1, align_units)), length);
}

Run Tlsf::allocate_at(std::uint32_t free_first, std::uint32_t first, std::uint32_t length) noexcept {
  if (length == 0 || !has_state(free_first, kFree)) return refuse(Status::bad_argument);
  const std::uint32_t run_length = tags_[free_first].length;
  if (first < free_first || first - free_first >= run_length || length > run_length - (first - free_first))
    return refuse(Status::exhausted);
  return carve_at(free_first, first, length);
}

// Hands out units from `start` on of the free run that starts at `first`.
Run Tlsf::carve_at(std::uint32_t first, std::uint32_t start, std::uint32_t length) noexcept {
  const std::uint32_t run_length = tags_[first].length;
  const std::uint32_t gap = start - first;
  unlink(first, run_length);
  if (gap != 0) {
    tags_[first].length = gap;
    tags_[start - 1].length = gap;
    tags_[start - 1].state |= kFreeEnd;
    insert(first, gap);
  }
  return carve(start, run_length - gap, length);
}

// Why free(first) is refused. A former run start tells nothing while its unit is part of a run in use.
Status Tlsf::refusal(std::uint32_t first) const noexcept {
  const bool is_free = has_state(first, kFree | kTaken) || was_freed(first);
  return is_free ? Status::double_free : Status::out_of_range;
}

Run Tlsf::grow_in_place(std::uint32_t first, std::uint32_t new_length) noexcept {
  if (!has_state(first, kAllocated)) return refuse(refusal(first));
  Tag& own = tags_[first];
  if (new_length < own.length) return refuse(Status::bad_argument);
  if (new_length > capacity_) return refuse(Status::too_large);
  const std::uint32_t extra = new_length - own.length;
  if (extra == 0) return Run{first, new_length, Status::ok};
  const std::uint32_t last = first + own.length - 1;
  if ((tags_[last].state & kRangeLast) != 0 || (tags_[last + 1].state & kFree) == 0)
    return refuse(Status::exhausted);
  Tag& neighbour = tags_[last + 1];
  const std::uint32_t right = neighbour.length;
  if (right < extra) return refuse(Status::exhausted);

  // The neighbour's front is handed out as a run of its own, which then becomes the inside of this one.
  unlink(last + 1, right);
  carve(last + 1, right, extra);
  neighbour.state &= kBarrier;
  own.length = new_length;
  return Run{first, new_length, Status::ok};
}

Run Tlsf::shrink(std::uint32_t first, std::uint32_t new_length) noexcept {
  if (!has_state(first, kAllocated)) return refuse(refusal(first));
  Tag& own = tags_[first];
  if (new_length == 0 || new_length > own.length) return refuse(Status::bad_argument);
  if (new_length == own.length) return Run{first + new_length, 0, Status::ok};
  const std::uint32_t tail = first + new_length;
  tags_[tail].length = own.length - new_length;
  own.length = new_length;
  tags_[tail].state |= kAllocated;
  return withdraw(tail);  // nobody was given a run that starts here
}

Run Tlsf::split(std::uint32_t first, std::uint32_t length) noexcept {
  if (!has_state(first, kAllocated)) return refuse(refusal(first));
  Tag& own = tags_[first];
  if (length == 0 || length >= own.length) return refuse(Status::bad_argument);
  const std::uint32_t second = first + length;
  const std::uint32_t rest = own.length - length;
  Tag& other = tags_[second];
  other.length = rest;
  other.owner = 0;
  other.mark = 0;
  other.state = bits((other.state & kBarrier) | kAllocated);
  own.length = length;
  return Run{second, rest, Status::ok};
}

std::uint32_t Tlsf::take_free_run(std::uint32_t first) noexcept {
  if (!has_state(first, kFree)) return 0;
  Tag& own = tags_[first];
  unlink(first, own.length);
  tags_[first + own.length - 1].state &= bits(~unsigned{kFreeEnd});
  own.state = bits((own.state & ~unsigned{kFree}) | kTaken);
  free_units_ -= own.length;
  return own.length;
}

Run Tlsf::take_at(std::uint32_t free_first, std::uint32_t first, std::uint32_t length) noexcept {
  if (length == 0 || !has_state(free_first, kFree)) return refuse(Status::bad_argument);
  const unsigned former = first - free_first < tags_[free_first].length ? tags_[first].state & kFormer : 0;
  const Run run = allocate_at(free_first, first, length);
  if (run.empty()) return run;
  tags_[first].state = bits((tags_[first].state & kBarrier) | kTaken | former);
  return run;
}

Run Tlsf::put_back(std::uint32_t first) noexcept {
  if (!has_state(first, kTaken)) return refuse(refusal(first));
  const bool was_handed_out = (tags_[first].state & kFormer) != 0;
  tags_[first].state ^= kTaken | kAllocated;
  return was_handed_out ? free(first) : withdraw(first);
}

std::uint32_t Tlsf::next_run(std::uint32_t first) const noexcept {
  const std::uint32_t length = run_length(first);
  if (length == 0 || (tags_[first + length - 1].state & kRangeLast) != 0) return kNoUnit;
  return first + length;
}

void Tlsf::attach(Tag* tags, std::uint32_t capacity_units, TlsfPolicy policy) noexcept {
  CHECK(capacity_units <= kTlsfUnitsMax);
  tags_ = tags;
  capacity_ = capacity_units;
  policy_ = policy;
  lowest_ = extent_ = 0;
  free_units_ = range_units_ = range_count_ = 0;
  nonempty_words_ = 0;
  for (std::uint64_t& word : nonempty_bins_) word = 0;
  for (std::uint32_t& head : heads_) head = 0;
}

Status Tlsf::add_range(std::uint32_t first, std::uint32_t count) noexcept {
  if (count == 0 || first >= capacity_ || count > capacity_ - first) return Status::bad_argument;
  const std::uint32_t last = first + count - 1;
  constexpr unsigned kOccupied = kAnyRun | kFreeEnd | kBarrier;
  if ((tags_[first].state & kOccupied) != 0 || (tags_[last].state & kOccupied) != 0) return Status::in_use;

  const std::uint32_t end = extent_ == 0 ? last + 1 : lowest_ + extent_;
  const std::uint32_t lowest = extent_ == 0 || first < lowest_ ? first : lowest_;
  extent_ = (last + 1 > end ? last + 1 : end) - lowest;
  lowest_ = lowest;
  range_units_ += count;
  range_count_ += 1;
  free_units_ += count;
  tags_[first].state = kRangeFirst | kFree;
  tags_[last].state |= kRangeLast | kFreeEnd;
  tags_[first].length = count;
  tags_[last].length = count;
  insert(first, count);
  return Status::ok;
}

Status Tlsf::extend_range(std::uint32_t first, std::uint32_t count, std::uint32_t extra) noexcept {
  if (count == 0 || !has_state(first, kRangeFirst)) return Status::out_of_range;
  if (count > lowest_ + extent_ - first) return Status::out_of_range;
  const std::uint32_t end = first + count;
  if ((tags_[end - 1].state & kRangeLast) == 0) return Status::out_of_range;
  if (extra == 0 || extra > capacity_ - end) return Status::bad_argument;
  const std::uint32_t last = end + extra - 1;
  constexpr unsigned kOccupied = kAnyRun | kFreeEnd | kBarrier;
  if ((tags_[end].state & kOccupied) != 0 || (tags_[last].state & kOccupied) != 0) return Status::in_use;

  if (last + 1 > lowest_ + extent_) extent_ = last + 1 - lowest_;
  range_units_ += extra;
  // The barrier moves to the new end, and the new units are given back like a run that was handed out.
  tags_[end - 1].state &= bits(~unsigned{kRangeLast});
  tags_[last].state = kRangeLast;
  tags_[end].state |= kAllocated;
  tags_[end].length = extra;
  return withdraw(end).status;
}

Status Tlsf::shrink_range(std::uint32_t first, std::uint32_t count, std::uint32_t removed) noexcept {
  if (count == 0 || !has_state(first, kRangeFirst)) return Status::out_of_range;
  if (count > lowest_ + extent_ - first) return Status::out_of_range;
  const std::uint32_t last = first + count - 1;
  if ((tags_[last].state & kRangeLast) == 0) return Status::out_of_range;
  if (removed == 0 || removed >= count) return Status::bad_argument;
  if ((tags_[last].state & kFreeEnd) == 0 || tags_[last].length < removed) return Status::in_use;
  const std::uint32_t length = tags_[last].length;
  const std::uint32_t start = last + 1 - length;
  const std::uint32_t kept = length - removed;
  unlink(start, length);
  // The barrier moves to the new end.
  tags_[last].state &= bits(~unsigned{kRangeLast | kFreeEnd});
  tags_[last - removed].state |= kRangeLast;
  if (kept != 0) {
    tags_[start].length = kept;
    tags_[last - removed].length = kept;
    tags_[last - removed].state |= kFreeEnd;
    insert(start, kept);
  } else {
    tags_[start].state &= bits(~unsigned{kFree});
  }
  range_units_ -= removed;
  free_units_ -= removed;
  return Status::ok;
}

std::uint32_t Tlsf::free_at_end(std::uint32_t first, std::uint32_t count) const noexcept {
  if (count == 0 || !has_state(first, kRangeFirst) || count > lowest_ + extent_ - first) return 0;
  const Tag& last = tags_[first + count - 1];
  constexpr unsigned kEnd = kRangeLast | kFreeEnd;
  return (last.state & kEnd) == kEnd ? last.length : 0;
}

Status Tlsf::remove_range(std::uint32_t first, std::uint32_t count) noexcept {
  if (count == 0 || !has_state(first, kRangeFirst)) return Status::out_of_range;
  if (count > lowest_ + extent_ - first) return Status::out_of_range;
  const std::uint32_t last = first + count - 1;
  if ((tags_[last].state & kRangeLast) == 0) return Status::out_of_range;
  if ((tags_[first].state & kFree) == 0 || tags_[first].length != count) return Status::in_use;
  unlink(first, count);
  tags_[first] = Tag{};
  tags_[last] = Tag{};
  range_units_ -= count;
  range_count_ -= 1;
  free_units_ -= count;
  return Status::ok;
}

std::uint32_t Tlsf::largest_free() const noexcept {
  if (nonempty_words_ == 0) return 0;
  const unsigned word = log2_floor(nonempty_words_);
  const unsigned bin = word * 64 + log2_floor(nonempty_bins_[word]);
  std::uint32_t longest = 0;
  for (std::uint32_t link = heads_[bin]; link != 0; link = tags_[link - 1].next) {
    if (tags_[link - 1].length > longest) longest = tags_[link - 1].length;
  }
  return longest;
}

std::uint32_t Tlsf::free_before(std::uint32_t unit) const noexcept {
  if (!is_known(unit) || (tags_[unit].state & kRangeFirst) != 0) return 0;
  const Tag& last = tags_[unit - 1];
  return (last.state & kFreeEnd) != 0 ? last.length : 0;
}

std::uint32_t Tlsf::run_containing(std::uint32_t unit) const noexcept {
  std::uint32_t at = unit;
  while (is_known(at) && (tags_[at].state & (kAnyRun | kRangeFirst)) == 0) --at;
  return run_length(at) > unit - at ? at : kNoUnit;
}

bool Tlsf::validate(std::span<const Range> ranges) const noexcept {
  const auto next = [](void* context, Range* range) {
    auto& rest = *static_cast<std::span<const Range>*>(context);
    if (rest.empty()) return false;
    *range = rest.front();
    rest = rest.subspan(1);
    return true;
  };
  return validate(next, &ranges);
}

bool Tlsf::validate(NextRange next, void* context) const noexcept {
  Census census;
  std::uint32_t ranges = 0;
  for (Range range; next(context, &range); ++ranges) {
    if (ranges == range_count_ || !validate_range(range, census)) return false;
  }
  if (ranges != range_count_ || census.range_units != range_units_) return false;
  if (census.free_units != free_units_) return false;
  std::uint64_t runs_in_bins = 0;
  for (unsigned bin = 0; bin < kBinCount; ++bin) {
    if (!validate_bin(bin, runs_in_bins)) return false;
  }
  for (unsigned word = 0; word < kWordCount; ++word) {
    if (((nonempty_words_ >> word) & 1) != (nonempty_bins_[word] != 0 ? 1u : 0u)) return false;
  }
  return runs_in_bins == census.free_runs;
}

bool Tlsf::validate_range(const Range& range, Census& census) const noexcept {
  const std::uint64_t wide_end = std::uint64_t{range.first} + range.count;
  if (range.count == 0 || range.first < lowest_ || wide_end > std::uint64_t{lowest_} + extent_) return false;
  const std::uint32_t end = static_cast<std::uint32_t>(wide_end);
  if ((tags_[range.first].state & kRangeFirst) == 0 || (tags_[end - 1].state & kRangeLast) == 0) return false;
  bool was_free = false;
  for (std::uint32_t at = range.first; at < end; at += tags_[at].length) {
    if (at != range.first && (tags_[at].state & kRangeFirst) != 0) return false;
    if (!validate_run(at, end, census)) return false;
    const bool is_free = (tags_[at].state & kFree) != 0;
    if (was_free && is_free) return false;
    was_free = is_free;
  }
  census.range_units += range.count;
  return true;
}

// One run that starts at `first` and must end at `end` or before.
bool Tlsf::validate_run(std::uint32_t first, std::uint32_t end, Census& census) const noexcept {
  const Tag& own = tags_[first];
  const std::uint32_t length = own.length;
  if (length == 0 || length > end - first) return false;
  const unsigned kind = own.state & unsigned{kAnyRun};
  if (kind == 0 || (kind & (kind - 1)) != 0) return false;
  const bool is_free = (own.state & kFree) != 0;
  const std::uint32_t last = first + length - 1;
  for (std::uint32_t unit = first; unit <= last; ++unit) {
    const unsigned state = tags_[unit].state;
    if (unit != first && (state & (kAnyRun | kRangeFirst)) != 0) return false;
    if (((state & kFreeEnd) != 0) != (is_free && unit == last)) return false;
    if (((state & kRangeLast) != 0) != (unit == end - 1)) return false;
  }
  if (is_free) {
    if (tags_[last].length != length) return false;
    census.free_units += length;
    census.free_runs += 1;
  }
  return true;
}

bool Tlsf::validate_bin(unsigned bin, std::uint64_t& free_runs) const noexcept {
  const bool is_marked = ((nonempty_bins_[bin / 64] >> (bin % 64)) & 1) != 0;
  if (is_marked != (heads_[bin] != 0)) return false;
  std::uint32_t previous = 0;
  for (std::uint32_t link = heads_[bin]; link != 0; link = tags_[link - 1].next) {
    if (!has_state(link - 1, kFree)) return false;
    const Tag& run = tags_[link - 1];
    if (run.previous != previous || bin_of(run.length) != bin) return false;
    if (++free_runs > range_units_) return false;  // a cycle
    previous = link;
  }
  return true;
}

}  // namespace glebe::placement
