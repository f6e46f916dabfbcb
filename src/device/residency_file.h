// Chunks in page files (namespace glebe::device). The page store of src/paging does the work: a chunk is
// stored as objects of 64 KiB, each with a checksum and a generation, written by the mebibyte. What is here
// is the table from a place to the objects of a chunk.
//
// write() and read() belong to one thread at a time (the mover); drop() may be called by any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "platform/thread.h"
#include "src/device/gpu.h"
#include "src/paging/growing_memory.h"
#include "src/paging/store.h"

namespace glebe::device {

using FilePlaceIndex = std::uint32_t;  // 0: none

class ChunkFile {
 public:
  ChunkFile() noexcept = default;
  ~ChunkFile() { close(); }
  ChunkFile(const ChunkFile&) = delete;
  ChunkFile& operator=(const ChunkFile&) = delete;

  struct Options {
    const char* directory = nullptr;
    std::uint64_t bytes_max = 0;  // of all files together
    std::size_t chunk_bytes = 0;  // a multiple of paging::kObjectBytesMax
    std::uint32_t chunks_max = 0;
  };
  // io_error: the directory is missing or cannot be written to. no_host_memory. Leaves nothing behind then.
  Outcome open(const Options& options) noexcept;
  void close() noexcept;  // what is in it is lost
  [[nodiscard]] bool is_open() const noexcept { return store_.is_open(); }

  // Stores a chunk. io_error, no_host_memory: nothing is stored.
  Outcome write(const std::byte* from, FilePlaceIndex* place) noexcept;
  // corrupt: what came back is not what was stored. io_error.
  Outcome read(FilePlaceIndex place, std::byte* to) noexcept;
  void drop(FilePlaceIndex place) noexcept;
  // Two halves of drop(): the first is short, whatever the chunk, and may be called with a lock held; the
  // second does what is left to do, for all retired places.
  void retire(FilePlaceIndex place) noexcept;
  void sweep() noexcept;

  [[nodiscard]] std::uint32_t places() noexcept;  // in use
  [[nodiscard]] std::uint64_t bytes_written() noexcept { return store_.stats().written_bytes; }
  [[nodiscard]] std::uint64_t bytes_read() noexcept { return store_.stats().read_bytes; }
  [[nodiscard]] int last_error() noexcept { return store_.stats().last_error; }  // errno, or 0

 private:
  [[nodiscard]] bool take_place(FilePlaceIndex* place) noexcept;
  [[nodiscard]] std::uint64_t* row(FilePlaceIndex place) noexcept;
  [[nodiscard]] paging::Handle* objects(FilePlaceIndex place) noexcept { return row(place) + 1; }
  Outcome write_batch(paging::Handle* handles) noexcept;

  paging::Store store_;
  paging::Batch batch_;
  paging::Scratch scratch_;
  bool has_batch_ = false, has_scratch_ = false;
  std::size_t object_count_ = 0;  // of a chunk
  std::uint32_t places_max_ = 0;
  os::Mutex mutex_;
  // Under the lock. A row per place: a link (of the free or the retired places), then the handles.
  paging::GrowingMemory table_;
  std::uint32_t used_ = 0, free_ = 0, retired_ = 0, live_ = 0;
};

}  // namespace glebe::device
