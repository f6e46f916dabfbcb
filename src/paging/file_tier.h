// The file tier: objects in page files (namespace glebe::paging).
//
// What belongs together is written together: a batch goes into one free run of a file with one write, or into
// a few where gaps are to be filled. Each object then is a run of its own, read alone and freed alone. The
// checksum covers what is stored and which record it belongs to, at which generation; it is kept in memory,
// so nothing that happens to the file can forge it.
//
// An object is known to nobody before its write is complete, and a write that fails gives all of its space
// back. hold() keeps the space of everything that exists: drop() then parks it until the last release().
//
// Thread-safe as store.h says; the lock is that of PageFiles, and no I/O is done while it is held.
#pragma once

#include <atomic>
#include <cstdint>

#include "src/paging/batch.h"
#include "src/paging/io_pool.h"
#include "src/paging/object_table.h"
#include "src/paging/page_files.h"
#include "src/paging/store.h"

namespace glebe::paging {

class FileTier {
 public:
  FileTier() noexcept = default;
  FileTier(const FileTier&) = delete;
  FileTier& operator=(const FileTier&) = delete;

  [[nodiscard]] StoreProblem open(const StoreOptions& options) noexcept;

  // Handles of the kind file, as the functions of Store with these names.
  unsigned write(Batch& batch) noexcept;
  [[nodiscard]] Handle write_one(const std::byte* data, std::uint32_t size_bytes,
                                 const WriteBegun& begun) noexcept;
  [[nodiscard]] GetResult get(Handle handle, std::byte* to, std::size_t size_bytes,
                              Scratch& scratch) noexcept;
  // Reads those of the objects that are on file; returns how many those are.
  unsigned get_many(std::span<ObjectRead> reads, Batch& room, Scratch& scratch) noexcept;
  void drop(Handle handle) noexcept;

  std::size_t trim() noexcept { return files_.trim(); }
  [[nodiscard]] unsigned file_descriptors(int* out, unsigned max) noexcept {
    return files_.descriptors(out, max);
  }
  void hold() noexcept;
  void release() noexcept;
  [[nodiscard]] std::uint64_t degraded_since_ms() const noexcept {
    return degraded_since_ms_.load(std::memory_order_relaxed);
  }
  void add_to(StoreStats& stats) noexcept;
  void seal_in_child() noexcept;

 private:
  static constexpr unsigned kSegmentsMax = 32;
  using Counter = std::atomic<std::uint64_t>;

  // Objects [begin, end) of a batch, which lie together in a file.
  struct Segment {
    unsigned begin, end;
    FilePlace place;
    int error;
    bool is_new_storage;  // blocks of the file that had none
  };
  struct Plan {
    Segment segments[kSegmentsMax];
    unsigned count = 0;
    unsigned objects = 0;  // how many of the batch have a place
  };

  unsigned write_parts(const BatchParts& parts, const WriteBegun* begun) noexcept;
  void place(const BatchParts& parts, Plan& plan) noexcept;
  [[nodiscard]] bool place_next(const BatchParts& parts, Plan& plan, std::uint32_t units_min) noexcept;
  [[nodiscard]] std::uint32_t growth_for(std::uint32_t units) const noexcept;
  [[nodiscard]] bool place_segment(const BatchParts& parts, Plan& plan, unsigned end) noexcept;
  [[nodiscard]] bool take_records(const BatchParts& parts, const Segment& segment) noexcept;
  void describe(const BatchParts& parts, const Segment& segment) noexcept;
  void write_segments(const BatchParts& parts, Plan& plan, const WriteBegun* begun) noexcept;
  unsigned finish(const BatchParts& parts, const Plan& plan) noexcept;
  void count_object(const FileObject& object, bool is_added) noexcept;
  void publish(BatchEntry& entry) noexcept;
  void free_object(std::uint32_t index) noexcept;
  [[nodiscard]] bool is_expected(const FileObject* object, std::size_t size_bytes) noexcept;
  [[nodiscard]] GetResult unpack(Handle handle, const std::byte* from, ObjectRead& read,
                                 Scratch& scratch) noexcept;
  struct ReadPlan;
  void read_planned(ReadPlan& plan, const BatchParts& room, Scratch& scratch) noexcept;
  void failed_read(int error) noexcept;

  PageFiles files_;
  IoPool io_;
  ObjectTable table_;
  bool is_sealed_ = false;

  // Guarded by the lock of files_.
  std::uint32_t holds_ = 0;
  std::uint32_t hold_stamp_ = 0;  // counts hold()
  std::uint32_t parked_ = 0;      // index + 1 of the first parked record

  std::atomic<std::uint64_t> degraded_since_ms_{0};
  std::atomic<int> last_error_{0};
  Counter objects_{0}, object_bytes_{0}, stored_bytes_{0}, live_units_{0}, parked_units_{0};
  Counter writes_{0}, written_objects_{0}, written_bytes_{0}, failed_writes_{0};
  Counter reads_{0}, read_bytes_{0}, failed_reads_{0}, corrupt_reads_{0};
};

}  // namespace glebe::paging
