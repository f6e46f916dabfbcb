// Blocks that are freed when a stream has passed a point (namespace glebe::device). For each stream a list in
// the order of its work, and one event from a pool for each call of defer(): a slow stream keeps its own
// blocks and nobody else's. Blocks are numbers here; whoever retires them is told.
//
// Thread-safe. No driver call is made while the lock of the lists is held; one thread retires at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "platform/thread.h"
#include "src/device/event_pool.h"
#include "src/device/gpu.h"
#include "src/paging/growing_memory.h"

namespace glebe::device {

class DeferredFrees {
 public:
  static constexpr std::uint32_t kBlocksMax = std::uint32_t{1} << 24;  // that wait at the same time
  static constexpr std::uint32_t kStreamsMax = 4096;

  // Called without a lock of this class but the one that lets one thread retire; may not come back here.
  struct Sink {
    void* self;
    void (*free)(void* self, std::uint64_t block);
  };

  DeferredFrees() noexcept = default;
  ~DeferredFrees() { close(); }
  DeferredFrees(const DeferredFrees&) = delete;
  DeferredFrees& operator=(const DeferredFrees&) = delete;

  // `gpu` outlives this object. no_host_memory.
  Outcome open(Gpu& gpu) noexcept;
  // Nothing waits any more (wait_all()). May be called twice.
  void close() noexcept;

  // The blocks, one at least, are freed after the work that is in the stream now. All of them or none; fails
  // with no_host_memory, over_budget (kBlocksMax, kStreamsMax), unsupported (the stream is being captured,
  // and the event would belong to the graph), or as the driver answers.
  Outcome defer(cuda::Stream stream, std::span<const std::uint64_t> blocks) noexcept;

  // Frees what the streams have passed. Waits for another thread that does it, for no stream.
  Outcome retire(const Sink& sink) noexcept;
  // Waits until all that is deferred now is freed. device_lost: what was deferred is freed all the same,
  // because nothing can use it any more. Other failures: the rest waits on.
  Outcome wait_all(const Sink& sink) noexcept;

  [[nodiscard]] std::uint64_t count() noexcept;  // blocks that wait
  [[nodiscard]] EventPool& events() noexcept { return events_; }

 private:
  static constexpr std::uint32_t kNone = 0;  // links are number + 1

  struct Block {
    std::uint64_t block;
    cuda::Event event;   // in the first one of a call, nullptr in the others, which follow it
    std::uint32_t next;  // in its list
  };
  struct StreamList {
    std::uint64_t stream_id;
    std::uint32_t first, last;
    std::uint32_t users;  // threads that are about to append
  };
  struct Extent {  // how much there is to look at; what comes later may wait
    std::uint32_t lists;
    std::uint64_t blocks;
  };
  enum class Step : std::uint8_t { none, passed, waiting, failed };

  [[nodiscard]] Block& at(std::uint32_t link) const noexcept {
    return reinterpret_cast<Block*>(blocks_.base())[link - 1];
  }
  [[nodiscard]] StreamList* lists() const noexcept { return reinterpret_cast<StreamList*>(lists_.base()); }
  [[nodiscard]] std::uint32_t take_blocks(std::span<const std::uint64_t> blocks) noexcept;
  void give_blocks(std::uint32_t first) noexcept;
  [[nodiscard]] StreamList* use_list(std::uint64_t stream_id) noexcept;
  Outcome record(cuda::Stream stream, cuda::Event* event) noexcept;
  [[nodiscard]] cuda::Event first_event(std::uint32_t number) noexcept;
  [[nodiscard]] Extent extent() noexcept;
  Step step(std::uint32_t number, bool is_last_look, const Sink& sink, Outcome* outcome) noexcept;

  Gpu* gpu_ = nullptr;
  EventPool events_;
  os::Mutex retire_mutex_;  // one thread retires at a time; taken before mutex_
  os::Mutex mutex_;
  // Under mutex_.
  paging::GrowingMemory blocks_, lists_;
  std::uint32_t block_count_ = 0, list_count_ = 0;  // that were ever used
  std::uint32_t free_ = kNone;                      // blocks that are used again
  std::uint64_t waiting_ = 0;
};

}  // namespace glebe::device
