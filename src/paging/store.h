// The page store: contents that left memory, compressed in RAM or written to page files (namespace
// glebe::paging).
//
// A store holds objects of 1 to 64 KiB (a page, or an extent of pages) by handle. It has two tiers. The
// compressed tier (compressed_tier.h) keeps an object in RAM: nothing at all for an object that repeats one
// word of 32 bits (64 bytes when it repeats one of 64 bits), otherwise a slot of a size class that fits what
// the codec made of it. The file tier (file_tier.h) keeps what the compressed tier gave up, or what does not
// compress, in unlinked files with a checksum and a generation for each object. An object is immutable: it is
// put once, read any number of times and dropped once.
//
// Thread-safe: any thread may call any function of an open store at any time, except that a Batch and a
// Scratch belong to one thread. A thread whose table of descriptors is not that of the thread that called
// open() may call everything but open(), close(), write(), trim() and get() of an object on file: nothing
// else uses a descriptor. No function calls malloc or touches memory of the heap except the caller's
// buffers; memory is reserved from the system at open(). No lock is held across file I/O, so a slow disk
// holds up only those that wait for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace glebe::paging {

inline constexpr std::size_t kPageBytes = 4096;
inline constexpr std::size_t kObjectBytesMax = 64 * 1024;
inline constexpr std::size_t kBatchBytes = 1024 * 1024;  // what one write to a page file carries at most
inline constexpr unsigned kBatchObjectsMax = 256;

// Names an object in a store. 0 names nothing. Fits in 56 bits, so that an entry of a page table has room
// beside it.
using Handle = std::uint64_t;
inline constexpr Handle kNoObject = 0;
inline constexpr unsigned kHandleBits = 56;

enum class Codec : std::uint8_t { lz4, zstd };

struct StoreOptions {
  Codec codec = Codec::lz4;
  // Most that the compressed tier may hold, in bytes of RAM (slabs, not only what is used of them).
  std::size_t compressed_limit_bytes = SIZE_MAX;
  // An object that compresses to more than this many 1/64 of its size is not kept in RAM: put() says
  // incompressible.
  unsigned worth_64ths = 56;
  const char* directory = nullptr;                        // of the page files; nullptr: no file tier
  std::uint64_t file_bytes_max = std::uint64_t{2} << 30;  // each page file
  std::uint64_t total_bytes_max = UINT64_MAX;             // all page files of this store
  bool direct_io = false;                                 // O_DIRECT, where the file system has it
  bool io_uring = true;  // where the kernel has it, for several reads or writes at once
};

enum class StoreProblem : std::uint8_t {
  none,
  no_memory,     // addresses or memory for the store's own tables
  no_directory,  // missing, no directory, or not writable
  no_file,       // a page file cannot be created there
};

enum class PutResult : std::uint8_t { stored, incompressible, full };
enum class GetResult : std::uint8_t {
  ok,
  io_error,  // the file cannot be read
  corrupt,   // what was read is not what was put: checksum, generation or codec disagree
};

// Working memory of the codecs for one thread, opened for the codec of the store that it is used with.
class Scratch {
 public:
  Scratch() noexcept = default;
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  [[nodiscard]] bool open(Codec codec) noexcept;  // false: no memory

 private:
  friend struct ScratchParts;  // codec.h
  void close() noexcept;

  std::byte* base_ = nullptr;
  std::size_t size_bytes_ = 0;
  Codec codec_ = Codec::lz4;
};

// Objects on their way to the file tier: filled object by object, then written at once.
class Batch {
 public:
  Batch() noexcept = default;
  ~Batch();
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  [[nodiscard]] bool open() noexcept;  // false: no memory
  [[nodiscard]] unsigned count() const noexcept { return count_; }
  // After Store::write(): the handle of the object that was added as number `index`; kNoObject: not written.
  [[nodiscard]] Handle written(unsigned index) const noexcept;
  void clear() noexcept;  // forgets what was added; what was written stays

 private:
  friend struct BatchParts;    // batch.h
  std::byte* base_ = nullptr;  // kBatchBytes of data, then the table of its objects
  std::size_t used_bytes_ = 0;
  unsigned count_ = 0;
};

// One of several objects that are asked for at once.
struct ObjectRead {
  Handle handle;
  std::byte* to;
  std::size_t size_bytes;  // that was put
  GetResult result;        // out
};

// Numbers since open(), or as of now. Bytes; every one exact.
struct StoreStats {
  // Compressed tier, as of now.
  std::size_t objects, object_bytes;  // what the objects held before compression
  std::size_t same_filled_objects;
  std::size_t compressed_bytes;  // what the codec made of them
  std::size_t slot_bytes;        // slots in use
  std::size_t slab_bytes;        // RAM of the tier
  // File tier, as of now.
  std::size_t file_objects, file_object_bytes;
  std::size_t file_stored_bytes;  // what the codec made of them
  std::size_t file_live_bytes;    // space of live objects: whole units of 512 bytes
  std::size_t file_parked_bytes;  // space of dropped objects that a hold keeps
  std::size_t file_free_bytes;    // gaps between them
  std::size_t file_space_bytes;   // the three together: what the caps are about
  std::size_t file_largest_free_bytes;
  // Sum of the lengths of the files (st_size), as of the last write() or trim(), and the storage that the
  // file system gave (st_blocks), as of the last one that took or gave back a block of 64 KiB.
  std::size_t file_length_bytes, file_allocated_bytes;
  std::size_t files, direct_files;  // direct: past the page cache
  std::size_t io_rings;             // io_uring queues that are open; 0: reads and writes go one by one
  // Since open(). puts: stored ones. A write is one run of bytes that went to a file; failed_writes counts
  // those that did not, and the batches for which there was no room.
  std::uint64_t puts, gets, drops, incompressible, full;
  std::uint64_t writes, written_objects, written_bytes, failed_writes;
  std::uint64_t reads, read_bytes, failed_reads, corrupt_reads;
  int last_error;  // errno of the last failed write or read, 0 when there was none
};

// Told by write_one(), by the thread that called it and with no lock held.
struct WriteBegun {
  void (*tell)(void* context) noexcept;
  void* context;
};

struct StoreState;  // store.cpp

class Store {
 public:
  Store() noexcept = default;
  ~Store();  // close()
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  [[nodiscard]] StoreProblem open(const StoreOptions& options) noexcept;
  void close() noexcept;  // everything in it is lost; no other thread uses it any more
  [[nodiscard]] bool is_open() const noexcept { return state_ != nullptr; }
  [[nodiscard]] bool has_files() const noexcept;

  // Puts `size_bytes` (1 .. kObjectBytesMax) into the compressed tier. On `stored` *handle names it.
  [[nodiscard]] PutResult put(const std::byte* data, std::size_t size_bytes, Scratch& scratch,
                              Handle* handle) noexcept;

  // Copies the object to `to`; size_bytes is the size that was put. Blocks on the disk when
  // is_on_file(handle). The caller sees to it that nobody drops the object meanwhile.
  [[nodiscard]] GetResult get(Handle handle, std::byte* to, std::size_t size_bytes,
                              Scratch& scratch) noexcept;
  // The same for several objects. Those on file are read together: neighbours with one read, and all reads at
  // once where the kernel has io_uring. `room` lends its memory; what it held is lost.
  void get_many(std::span<ObjectRead> reads, Batch& room, Scratch& scratch) noexcept;
  [[nodiscard]] static bool is_on_file(Handle handle) noexcept;

  // RAM of the slot that an object of the compressed tier is in; 0 when it needs none, or lies in a file.
  [[nodiscard]] std::size_t slot_bytes(Handle handle) const noexcept;

  // Forgets the object and gives its slot or file space back.
  void drop(Handle handle) noexcept;

  // Adds an object of the compressed tier, as it lies there, or raw bytes to a batch. False: the batch is
  // full. As in get(), nobody drops the object meanwhile; afterwards the batch has its own copy.
  [[nodiscard]] bool add(Batch& batch, Handle handle) noexcept;
  [[nodiscard]] bool add(Batch& batch, const std::byte* data, std::size_t size_bytes) noexcept;
  // The same, and the batch gets it compressed where that is worth it.
  [[nodiscard]] bool add(Batch& batch, const std::byte* data, std::size_t size_bytes,
                         Scratch& scratch) noexcept;

  // Writes the batch to the page files and sets batch.written(i). Returns how many were written. An object
  // that was not written (no space, I/O error) left nothing behind: its file space is free again. Objects of
  // the compressed tier stay there until they are dropped.
  unsigned write(Batch& batch) noexcept;

  // Writes one object straight from where it lies: no copy, no batch. Its memory begins at an os page and is
  // readable to the end of its last page. Once the checksum is made `begun` is told: from then on the bytes
  // may change, and if they do what is written must be dropped unread. kNoObject: as in write().
  [[nodiscard]] Handle write_one(const std::byte* data, std::size_t size_bytes,
                                 const WriteBegun& begun) noexcept;

  // Whether the file tier has refused a write since the last one that succeeded; and since when, on
  // os::clock_coarse_ms(), 0 when it has not.
  [[nodiscard]] bool is_degraded() const noexcept;
  [[nodiscard]] std::uint64_t degraded_since_ms() const noexcept;

  // Gives empty slabs, free tails and holes of files back to the system. Returns bytes.
  std::size_t trim() noexcept;

  void set_compressed_limit(std::size_t bytes) noexcept;
  // Writes the descriptors of all page files to `out`, at most `max`, and returns how many there are. They
  // stay what they are until close(). A process that has the same files under the same numbers can read a
  // sealed copy of this store.
  [[nodiscard]] unsigned file_descriptors(int* out, unsigned max) const noexcept;

  // RAM that the compressed tier holds now; one relaxed load.
  [[nodiscard]] std::size_t compressed_bytes() const noexcept;
  // The part of it that objects take. The rest waits for the next ones.
  [[nodiscard]] std::size_t occupied_bytes() const noexcept;
  [[nodiscard]] StoreStats stats() const noexcept;

  // Forked processes share the page files: what was stored before the fork has to stay where it is for as
  // long as the other process may read it.
  //
  // hold(): from now on no file space of an object that exists now is used again or punched; release() after
  // the last hold does what was put off. Holds are counted.
  void hold() noexcept;
  void release() noexcept;
  // In a forked child, while it has one thread: makes the store readable there whatever other threads of the
  // parent were doing in it. Nothing is put or written any more (put() says full, write() writes nothing),
  // drop() only forgets; get() works.
  void seal_in_child() noexcept;

 private:
  StoreState* state_ = nullptr;
};

}  // namespace glebe::paging
