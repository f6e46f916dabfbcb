// What a transfer queue keeps: a record per transfer, a batch per ticket, a lane per direction (namespace
// glebe::device). Only for transfer*.cpp.
//
// A record waits in the list of its priority until all of its pieces are queued; then it is in no list until
// the last one has arrived. `pieces_in_flight` counts every piece between the choice and the end of the work
// on it, the copying by the CPU included: while it is 0 nothing touches the caller's memory.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "src/base/list.h"
#include "src/device/transfer.h"

namespace glebe::device {

struct TransferBatch {
  TransferItem* first = nullptr;
  std::uint32_t count = 0;
  std::atomic<std::uint32_t> left{0};  // that have not ended
  TransferBatch* next_free = nullptr;
};

struct TransferItem : ListNode<> {
  // What the pieces do: move the bytes, or read them back, first where they went, then (of a copy) where they
  // came from.
  enum class Pass : std::uint8_t { move, read_target, read_source };
  enum class State : std::uint8_t { waiting, in_no_list, ended };

  Transfer what;
  TransferBatch* batch = nullptr;
  TransferItem* next_in_batch = nullptr;  // of a free record: the next free one
  State state = State::ended;
  Pass pass = Pass::move;
  bool is_stopped = false;  // no piece more; result.outcome says why
  std::uint32_t pieces_in_flight = 0;
  unsigned attempts = 0;                             // in a row, that failed
  std::uint64_t issued_bytes = 0, passed_bytes = 0;  // of this pass: queued; arrived
  std::uint64_t sums[2] = {0, 0};                    // of what was read back, and of what it should be
  std::uint64_t start_ns = 0, deadline_ns = ~std::uint64_t{0}, not_before_ns = 0;
  TransferResult result;

  [[nodiscard]] TransferDirection direction() const noexcept {
    if (pass != Pass::move || what.kind == TransferKind::download) return TransferDirection::download;
    return what.kind == TransferKind::upload ? TransferDirection::upload : TransferDirection::device;
  }
  // The direction whose statistics it belongs to.
  [[nodiscard]] TransferDirection counted_as() const noexcept {
    if (what.kind == TransferKind::download) return TransferDirection::download;
    return what.kind == TransferKind::upload ? TransferDirection::upload : TransferDirection::device;
  }
  [[nodiscard]] bool is_staged() const noexcept {
    return pass != Pass::move || (direction() != TransferDirection::device && !result.is_direct);
  }
};

struct TransferPiece {
  TransferItem* item = nullptr;
  std::uint64_t offset = 0;
  std::size_t size_bytes = 0;
  StagingBlock block;  // empty: not staged
};

struct TransferSubmission {
  static constexpr unsigned kPiecesMax = 32;

  Fence fence = 0;
  bool has_fence = false;    // the driver refused one so far
  bool is_given_up = false;  // its transfers have ended; its pieces have no items
  std::uint64_t size_bytes = 0;
  unsigned count = 0;
  TransferPiece pieces[kPiecesMax];
};

struct TransferLane {
  os::Mutex driver;  // whoever queues and retires submissions here holds it; taken before the queue's lock
  // Under it.
  unsigned number = 0;  // a TransferDirection; constant
  cuda::Stream stream = nullptr;
  FenceQueue fences;
  StagingRing ring;                                                    // not of the device lane
  TransferSubmission submissions[TransferQueueOptions::kInFlightMax];  // a circular queue, oldest first
  std::uint32_t first = 0, count = 0;
  std::uint64_t full_since_ns = 0;  // 0: the ring had room when it was asked last
  std::uint64_t busy_since_ns = 0;
  // Of the driver, in a row, neither "done" nor "under way". Meanwhile nothing more is queued.
  std::uint32_t odd_answers = 0;    // at most kOddAnswersMax
  std::uint32_t patience_used = 0;  // those of them that a transfer waited for since some were given up
  std::uint64_t ask_again_ns = 0;   // after an odd answer
  // Under the queue's lock.
  List<TransferItem> waiting[kTransferPriorities];
};

}  // namespace glebe::device
