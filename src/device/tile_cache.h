// Which pages of a large texture have memory (namespace glebe::device): requests come in, pages are filled by
// a function of the caller's, and the ones that were asked for longest ago make room.
//
//   cache.open({.binder = array.binder(), .gpu = &gpu, .staging = &ring, .events = &events, ...});
//   for each frame: cache.update(requests);
//     cache.begin_use(stream); ... launch what samples the texture in `stream` ...; cache.end_use(stream);
//
// The pages of the tail have memory from open() to close(), so that every page has an ancestor that is
// there. update() serves coarse pages first, at most `tiles_per_update` of them; what it did not come to, or
// was not ready, it keeps and serves later. Everything is done in the texture's own stream: it waits for
// what end_use() recorded, and begin_use() makes other streams wait for it. So no page loses its memory
// under work that uses it, and the host waits for nobody. One thread at a time.
//
// Filling goes through blocks of a staging ring, or, where the texture is memory of the host, through memory
// of the cache. A copy that fails after its page got memory takes that memory away again.
#pragma once

#include <cstdint>
#include <span>

#include "src/base/list.h"
#include "src/device/event_pool.h"
#include "src/device/pool_source.h"
#include "src/device/staging.h"
#include "src/device/tile_binder.h"
#include "src/device/tile_table.h"

namespace glebe::device {

enum class TileFill : std::uint8_t {
  ready,      // the 64 KiB are written
  not_ready,  // later: the request is kept
  failed,     // the request is dropped; the page may be asked for again
};

struct TileCacheOptions {
  TileBinder binder;                    // outlives the cache; nobody else exchanges its pages
  std::uint32_t tiles_max = 0;          // pages at the same time, those of the tail too
  std::uint32_t tiles_per_update = 64;  // filled by one update(), at most TileCache::kBatchMax
  std::uint32_t requests_max = 4096;    // kept at the same time
  // Fills a page: rows of tile_width texels; may write more than the texture has. Called by update(), open().
  TileFill (*fill)(void* self, TilePage page, std::byte* to) = nullptr;
  void* fill_self = nullptr;
  // Without a GPU nullptr. The ring is for uploads and holds tiles_per_update tiles; all outlive the cache.
  Gpu* gpu = nullptr;
  StagingRing* staging = nullptr;
  EventPool* events = nullptr;
  cuda::Stream stream = nullptr;  // that of the texture
};

struct TileCacheStats {
  std::uint64_t updates = 0;
  std::uint64_t requests = 0, hits = 0, misses = 0;  // hits + misses == requests
  std::uint64_t refused = 0;                         // requests for what is no page of the texture
  std::uint64_t overflows = 0;                       // misses that there was no room to keep
  std::uint64_t filled = 0, filled_bytes = 0, not_ready = 0, fill_failures = 0;
  std::uint64_t evicted = 0;
  std::uint64_t resident = 0, pinned = 0, waiting = 0;  // now: pages; of them pinned, those of the tail too;
                                                        // requests
  std::uint64_t tiles_max = 0;

  [[nodiscard]] double hit_rate() const noexcept {  // 0 without requests
    return requests == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(requests);
  }
  [[nodiscard]] double utilisation() const noexcept {  // 0 of a closed cache
    return tiles_max == 0 ? 0 : static_cast<double>(resident) / static_cast<double>(tiles_max);
  }
};

class TileCache {
 public:
  static constexpr std::uint32_t kBatchMax = 1024;
  static constexpr std::uint32_t kUsesMax = 16;  // events of end_use() that update() has not met

  TileCache() noexcept = default;
  ~TileCache() { static_cast<void>(close()); }
  TileCache(const TileCache&) = delete;
  TileCache& operator=(const TileCache&) = delete;

  // Fills the tail. bad_argument: options that make no sense, a budget without room for a page besides the
  // tail; not_ready, io_error: fill() did not fill the tail; others as the texture, the ring and the driver
  // answer. A failure leaves nothing; where the driver refuses to undo something, close() is called again.
  Outcome open(const TileCacheOptions& options) noexcept;
  // Waits for the stream and for all uses, then gives the memory of all pages back to the texture, which
  // keeps a tail of its own. May be called twice. When the driver
  // refuses, it can be called again, and nothing else.
  Outcome close() noexcept;

  // Serves requests; the same page may be asked for more than once. in_use: between begin_use() and
  // end_use(). Other failures: what was not served is kept, pages that had memory may have lost it, and the
  // contents of those that have it are right.
  Outcome update(std::span<const TilePage> requests) noexcept;
  // Keeps requests for the next update(), without counting them as asked for.
  void prefetch(std::span<const TilePage> pages) noexcept;

  // Work that is queued in `stream` after begin_use() finds the pages as the last update() left them; work
  // queued before end_use() keeps them. Uses of several streams may overlap. A failed end_use() did not end.
  // unsupported: the stream is being captured; the graph would run without the cache knowing.
  Outcome begin_use(cuda::Stream stream) noexcept;
  Outcome end_use(cuda::Stream stream) noexcept;

  // A pinned page keeps its memory. not_owned: it has none. Pins are counted; the tail has one.
  Outcome pin(TilePage page) noexcept;
  Outcome unpin(TilePage page) noexcept;  // bad_argument: it has no pin, or is of the tail
  // Takes the memory of a page away; of all that are not pinned, and drops what waits. in_use: it is pinned,
  // or uses are under way. not_owned: it has none.
  Outcome evict(TilePage page) noexcept;
  Outcome flush() noexcept;

  [[nodiscard]] bool is_resident(TilePage page) const noexcept { return find(page) != nullptr; }
  // The page itself, or the finest one above it that has memory.
  [[nodiscard]] TilePage resident_ancestor(TilePage page) const noexcept;
  [[nodiscard]] TileCacheStats stats() const noexcept;
  [[nodiscard]] bool validate() const noexcept;  // for tests

 private:
  struct Slot : ListNode<> {
    TilePage page;
    std::uint64_t last_asked;  // number of the update
    std::uint32_t pins;
    bool is_used;   // has a page
    bool is_stale;  // its page has memory and no contents: it leaves before others come
  };
  struct Batch {
    TilePage in[kBatchMax], out[kBatchMax];
    Slot* slots[kBatchMax];
    StagingBlock blocks[kBatchMax];
    std::uint32_t count, leaving;
  };

  [[nodiscard]] static bool is_sound(const TileCacheOptions& options) noexcept;
  [[nodiscard]] bool open_tables() noexcept;
  Outcome fill_tail() noexcept;
  Outcome fill_level(unsigned level) noexcept;
  Outcome load_tail() noexcept;
  void close_tables() noexcept;
  Outcome drain() noexcept;
  Outcome release_pages() noexcept;
  Outcome release_batch() noexcept;
  [[nodiscard]] Slot* slots() const noexcept { return reinterpret_cast<Slot*>(slots_.base()); }
  [[nodiscard]] TilePage* waiting() const noexcept { return reinterpret_cast<TilePage*>(waiting_.base()); }
  [[nodiscard]] Batch& batch() const noexcept { return *reinterpret_cast<Batch*>(batch_.base()); }
  [[nodiscard]] Slot* find(TilePage page) const noexcept;
  void count_request(TilePage page) noexcept;
  void keep(TilePage page) noexcept;
  void drop_served() noexcept;

  [[nodiscard]] std::uint32_t room_for_batch() const noexcept;
  Outcome choose(std::uint32_t count_max) noexcept;
  Outcome take_block(StagingBlock* block) noexcept;
  [[nodiscard]] TileFill fill_next(TilePage page, const StagingBlock& block) noexcept;
  Outcome load() noexcept;
  Outcome drop_stale() noexcept;
  void choose_slots() noexcept;
  void put_back_slots() noexcept;
  void hand_over_slots() noexcept;
  Outcome write_batch(std::uint32_t* written) noexcept;
  void take_back(std::uint32_t first) noexcept;
  void give_blocks(std::uint32_t first) noexcept;
  Outcome submit(std::uint32_t count) noexcept;
  [[nodiscard]] Outcome check_not_captured(cuda::Stream stream) const noexcept;
  Outcome wait_for_uses() noexcept;
  Outcome evict_first(std::uint32_t count_max) noexcept;
  Outcome exchange(std::span<const TilePage> out, std::span<const TilePage> in) noexcept;

  TileCacheOptions options_;
  bool is_open_ = false;
  TileTable table_, waiting_table_;  // page -> number of its slot; requests that are kept
  paging::GrowingMemory slots_, waiting_, batch_, scratch_;
  List<Slot> free_, stale_, order_;  // order_: pages without a pin, the one asked for longest ago first
  std::uint32_t waiting_count_ = 0;
  std::uint32_t open_uses_ = 0, use_count_ = 0;
  cuda::Event uses_[kUsesMax] = {};
  TileCacheStats stats_;
};

}  // namespace glebe::device
