// The page files of one store: where there is room, when there is more, what goes back (namespace
// glebe::paging).
//
// Files are searched from the oldest to the newest, so gaps in old files are used again before anything
// grows. A file grows in steps, within its own cap, the cap of all files, RLIMIT_FSIZE, and what the file
// system has left: the last twentieth of it, or the last GiB if that is less, is never taken. When no file
// can grow a new one is made. A file whose write failed gets no new object for kRetryMs; after ENOSPC or
// EDQUOT nothing grows for as long.
//
// Thread-safe. lock() guards the space of every file and is never held across a system call that does I/O.
// growth_ is held while a file is made, lengthened or cut, trim_ while holes are punched: others that need
// that wait, nobody else. Order: trim_, growth_, lock().
#pragma once

#include <atomic>
#include <cstdint>

#include "platform/page_file.h"
#include "platform/thread.h"
#include "src/paging/file_space.h"
#include "src/paging/store.h"

namespace glebe::paging {

inline constexpr std::uint64_t kRetryMs = 1000;
inline constexpr std::uint32_t kFilesMax = 4096;

// Units [first, first + units) of a file.
struct FilePlace {
  std::uint32_t file = 0;
  std::uint32_t first = 0;
  std::uint32_t units = 0;
};

class PageFiles {
 public:
  PageFiles() noexcept = default;
  PageFiles(const PageFiles&) = delete;
  PageFiles& operator=(const PageFiles&) = delete;
  ~PageFiles() { close(); }

  // Opens the directory and makes the first file, so that a place where none can be made is known at once.
  [[nodiscard]] StoreProblem open(const StoreOptions& options) noexcept;
  void close() noexcept;

  [[nodiscard]] os::Mutex& lock() noexcept { return lock_; }
  [[nodiscard]] os::PageFile& file(std::uint32_t number) noexcept { return slots()[number].file; }
  [[nodiscard]] bool is_direct() const noexcept { return wants_direct_; }  // then all is in whole sectors

  // These with lock() held.
  [[nodiscard]] bool take(std::uint32_t units, std::uint32_t align_units, FilePlace* place) noexcept;
  [[nodiscard]] FileSpace& space(std::uint32_t number) noexcept { return slots()[number].space; }
  void succeeded(std::uint32_t number) noexcept { slots()[number].failed_at_ms = 0; }
  void failed(std::uint32_t number, int error) noexcept;
  // Whether gaps are more than a quarter of all files: worth cutting a batch into pieces for.
  [[nodiscard]] bool has_many_gaps() noexcept;

  // These without it.
  // Makes room for `units` in one piece, by growth. False: the caps, the file system or memory forbid it.
  [[nodiscard]] bool grow_for(std::uint32_t units) noexcept;
  std::size_t trim() noexcept;
  // Storage that holds nothing has become so much that it should not wait for the next trim().
  [[nodiscard]] bool should_trim() noexcept;
  // Looks up how large the files are, for add_to(). For threads with our table of descriptors.
  void measure(std::uint32_t number) noexcept;
  // A write ended there, and needed no new block of storage.
  void note_length(std::uint32_t number, std::uint64_t end_bytes) noexcept;
  [[nodiscard]] unsigned descriptors(int* out, unsigned max) noexcept;
  void add_to(StoreStats& stats) noexcept;  // uses no descriptor
  void seal_in_child() noexcept;

 private:
  struct Slot {
    os::PageFile file;
    FileSpace space;
    std::uint64_t failed_at_ms = 0;                                  // 0: the last write went well
    std::atomic<std::uint64_t> length_bytes{0}, allocated_bytes{0};  // as of the last measure()
  };

  [[nodiscard]] Slot* slots() noexcept { return reinterpret_cast<Slot*>(memory_.base()); }
  [[nodiscard]] std::uint32_t file_count() const noexcept { return count_.load(std::memory_order_acquire); }
  [[nodiscard]] bool is_usable(const Slot& slot, std::uint64_t now_ms) const noexcept;
  [[nodiscard]] std::uint64_t room_units() noexcept;
  [[nodiscard]] bool grow_existing(std::uint32_t units, std::uint64_t room) noexcept;
  [[nodiscard]] bool add_file(std::uint32_t units, std::uint64_t room) noexcept;
  [[nodiscard]] std::uint64_t all_units() noexcept;
  [[nodiscard]] std::uint64_t unbacked_units() noexcept;
  std::size_t punch(Slot& slot) noexcept;
  std::size_t cut(Slot& slot) noexcept;

  os::Mutex lock_, growth_, trim_;
  os::PageDirectory directory_;
  GrowingMemory memory_;
  std::atomic<std::uint32_t> count_{0};  // release: the slot is complete; pairs with acquire in file_count()
  std::uint32_t file_units_max_ = 0;
  std::uint64_t total_units_max_ = 0;
  bool wants_direct_ = false;
  bool is_sealed_ = false;
  std::uint64_t no_growth_until_ms_ = 0;  // lock_ guards it
};

}  // namespace glebe::paging
