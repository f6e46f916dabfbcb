// The page store; see store.h. What a handle's kind says decides which tier is asked.
#include "src/paging/store.h"

#include <atomic>
#include <new>

#include "platform/vm.h"
#include "src/base/check.h"
#include "src/paging/compressed_tier.h"
#include "src/paging/file_tier.h"

namespace glebe::paging {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr std::size_t kWordBytes = sizeof(std::uint64_t);

}  // namespace

struct StoreState {
  using Counter = std::atomic<std::uint64_t>;

  CompressedTier compressed;
  FileTier files;
  Codec codec = Codec::lz4;
  unsigned worth_64ths = 64;
  bool has_files = false;
  bool is_sealed = false;
  Counter puts{0}, gets{0}, drops{0}, incompressible{0}, full{0};
};

namespace {

const std::size_t kStateBytes = align_up(sizeof(StoreState), 64 * kKiB);

std::size_t worth_bytes(const StoreState& state, std::size_t size_bytes) noexcept {
  return size_bytes * state.worth_64ths / 64;
}

// The object as it lies in the compressed tier. `word` is where the word of a fill lives.
Stored stored_of(const StoreState& state, Handle handle, std::uint64_t* word) noexcept {
  if (handle_kind(handle) == HandleKind::slot) return state.compressed.stored(handle);
  CHECK(handle_kind(handle) == HandleKind::fill);
  const FillObject object = fill_object(handle);
  *word = object.word;
  return Stored{reinterpret_cast<const std::byte*>(word), kWordBytes,
                static_cast<std::uint32_t>(object.size_bytes), Form::fill};
}

}  // namespace

Store::~Store() { close(); }

StoreProblem Store::open(const StoreOptions& options) noexcept {
  CHECK(state_ == nullptr);
  void* const memory = os::reserve(kStateBytes, os::page_bytes());
  if (memory == nullptr) return StoreProblem::no_memory;
  if (!os::commit(memory, kStateBytes)) {
    os::release(memory, kStateBytes);
    return StoreProblem::no_memory;
  }
  state_ = ::new (memory) StoreState;
  state_->codec = options.codec;
  state_->worth_64ths = options.worth_64ths < 64 ? options.worth_64ths : 63;
  StoreProblem problem =
      state_->compressed.open(options.compressed_limit_bytes) ? StoreProblem::none : StoreProblem::no_memory;
  if (problem == StoreProblem::none && options.directory != nullptr) {
    problem = state_->files.open(options);
    state_->has_files = problem == StoreProblem::none;
  }
  if (problem != StoreProblem::none) close();
  return problem;
}

void Store::close() noexcept {
  if (state_ == nullptr) return;
  state_->~StoreState();
  os::release(state_, kStateBytes);
  state_ = nullptr;
}

bool Store::has_files() const noexcept { return state_->has_files; }

PutResult Store::put(const std::byte* data, std::size_t size_bytes, Scratch& scratch,
                     Handle* handle) noexcept {
  StoreState& state = *state_;
  CHECK(size_bytes != 0);
  CHECK(size_bytes <= kObjectBytesMax);
  Stored stored;
  PutResult result = PutResult::full;
  std::uint64_t word = 0;
  if (state.is_sealed) {
    // Nothing is put in a forked child.
  } else if (is_filled(data, size_bytes, &word)) {
    *handle = fill_handle(word, size_bytes);
    stored = Stored{reinterpret_cast<const std::byte*>(&word), kWordBytes,
                    static_cast<std::uint32_t>(size_bytes), Form::fill};
    if (*handle != kNoObject) {
      state.compressed.count_fill(size_bytes);
      result = PutResult::stored;
    } else {
      result = state.compressed.put(stored, handle);
    }
  } else if (state.compressed.limit_bytes() != 0) {
    const std::size_t limit = worth_bytes(state, size_bytes);
    const std::optional<Stored> made = compress(state.codec, {data, size_bytes}, limit, scratch);
    result = made ? state.compressed.put(*made, handle) : PutResult::incompressible;
  }
  StoreState::Counter& counter = result == PutResult::stored           ? state.puts
                                 : result == PutResult::incompressible ? state.incompressible
                                                                       : state.full;
  counter.fetch_add(1, kRelaxed);
  return result;
}

GetResult Store::get(Handle handle, std::byte* to, std::size_t size_bytes, Scratch& scratch) noexcept {
  StoreState& state = *state_;
  state.gets.fetch_add(1, kRelaxed);
  if (handle_kind(handle) == HandleKind::file) return state.files.get(handle, to, size_bytes, scratch);
  std::uint64_t word = 0;
  const Stored stored = stored_of(state, handle, &word);
  if (stored.size_bytes != size_bytes) return GetResult::corrupt;
  return expand(stored, to, scratch) ? GetResult::ok : GetResult::corrupt;
}

std::size_t Store::slot_bytes(Handle handle) const noexcept {
  return handle_kind(handle) == HandleKind::slot ? state_->compressed.slot_bytes(handle) : 0;
}

void Store::get_many(std::span<ObjectRead> reads, Batch& room, Scratch& scratch) noexcept {
  bool has_files = false;
  for (ObjectRead& read : reads) {
    if (is_on_file(read.handle)) {
      has_files = true;
    } else {
      read.result = get(read.handle, read.to, read.size_bytes, scratch);
    }
  }
  if (has_files) state_->gets.fetch_add(state_->files.get_many(reads, room, scratch), kRelaxed);
}

bool Store::is_on_file(Handle handle) noexcept { return handle_kind(handle) == HandleKind::file; }

void Store::drop(Handle handle) noexcept {
  if (handle == kNoObject) return;
  state_->drops.fetch_add(1, kRelaxed);
  if (handle_kind(handle) == HandleKind::file) {
    state_->files.drop(handle);
  } else {
    state_->compressed.drop(handle);
  }
}

bool Store::add(Batch& batch, Handle handle) noexcept {
  std::uint64_t word = 0;
  return BatchParts::add(batch, stored_of(*state_, handle, &word));
}

bool Store::add(Batch& batch, const std::byte* data, std::size_t size_bytes) noexcept {
  CHECK(size_bytes != 0);
  CHECK(size_bytes <= kObjectBytesMax);
  const auto size = static_cast<std::uint32_t>(size_bytes);
  return BatchParts::add(batch, Stored{data, size, size, Form::raw});
}

bool Store::add(Batch& batch, const std::byte* data, std::size_t size_bytes, Scratch& scratch) noexcept {
  CHECK(size_bytes != 0);
  CHECK(size_bytes <= kObjectBytesMax);
  Stored stored;
  std::uint64_t word = 0;
  if (is_filled(data, size_bytes, &word)) {
    stored = Stored{reinterpret_cast<const std::byte*>(&word), kWordBytes,
                    static_cast<std::uint32_t>(size_bytes), Form::fill};
  } else {
    const std::size_t limit = worth_bytes(*state_, size_bytes);
    const std::optional<Stored> made = compress(state_->codec, {data, size_bytes}, limit, scratch);
    if (!made) return add(batch, data, size_bytes);
    stored = *made;
  }
  return BatchParts::add(batch, stored);
}

unsigned Store::write(Batch& batch) noexcept {
  CHECK(state_->has_files);
  return state_->files.write(batch);
}

Handle Store::write_one(const std::byte* data, std::size_t size_bytes, const WriteBegun& begun) noexcept {
  CHECK(state_->has_files);
  CHECK(size_bytes != 0);
  CHECK(size_bytes <= kObjectBytesMax);
  return state_->files.write_one(data, static_cast<std::uint32_t>(size_bytes), begun);
}

bool Store::is_degraded() const noexcept { return degraded_since_ms() != 0; }

std::uint64_t Store::degraded_since_ms() const noexcept { return state_->files.degraded_since_ms(); }

std::size_t Store::trim() noexcept {
  const std::size_t bytes = state_->compressed.trim();
  return state_->has_files ? bytes + state_->files.trim() : bytes;
}

unsigned Store::file_descriptors(int* out, unsigned max) const noexcept {
  return state_->has_files ? state_->files.file_descriptors(out, max) : 0;
}

void Store::set_compressed_limit(std::size_t bytes) noexcept { state_->compressed.set_limit(bytes); }

std::size_t Store::compressed_bytes() const noexcept { return state_->compressed.slab_bytes(); }

std::size_t Store::occupied_bytes() const noexcept { return state_->compressed.slot_bytes(); }

StoreStats Store::stats() const noexcept {
  StoreStats stats{};
  state_->compressed.add_to(stats);
  if (state_->has_files) state_->files.add_to(stats);
  stats.puts = state_->puts.load(kRelaxed);
  stats.gets = state_->gets.load(kRelaxed);
  stats.drops = state_->drops.load(kRelaxed);
  stats.incompressible = state_->incompressible.load(kRelaxed);
  stats.full = state_->full.load(kRelaxed);
  return stats;
}

void Store::hold() noexcept { state_->files.hold(); }

void Store::release() noexcept { state_->files.release(); }

void Store::seal_in_child() noexcept {
  state_->is_sealed = true;
  state_->compressed.seal_in_child();
  state_->files.seal_in_child();
}

}  // namespace glebe::paging
