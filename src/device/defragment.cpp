// See defragment.h.
#include "src/device/defragment.h"

#include "platform/process.h"

namespace glebe::device {
namespace {

constexpr std::size_t kMovesMax = 256;  // of one pass
constexpr std::uint64_t kPassesMax = 4096;

// How the copies of a pass ended, and whether all of them have.
struct Copied {
  Outcome outcome;
  bool is_over = false;
};

Copied copy_all(Gpu& gpu, std::span<const HeapMove> moves, cuda::Stream stream) noexcept {
  const CurrentContext current(gpu);
  Copied copied;
  for (const HeapMove& move : moves) {
    copied.outcome = gpu.check(gpu.driver().memcpy_d2d_async(move.to, move.from, move.size_bytes, stream));
    if (!copied.outcome.ok()) break;
  }
  // After a failure too: what was queued writes to places that are given back.
  const Outcome waited = gpu.check(gpu.driver().stream_synchronize(stream));
  copied.is_over = waited.ok() || gpu.check(gpu.driver().ctx_synchronize()).ok();
  if (copied.outcome.ok()) copied.outcome = waited;
  return copied;
}

// The blocks are at their new places, or stay. The program is told of each while nobody can be given the old
// places.
HeapPassResult finish(DeviceHeap& heap, const DefragmentOptions& options, std::span<HeapMove> moves,
                      const Copied& copied) noexcept {
  const bool is_copied = copied.outcome.ok();
  for (HeapMove& move : moves) {
    move.is_cancelled = !is_copied;
    move.keeps_target = !copied.is_over;
  }
  heap.commit_pass(moves);
  for (const HeapMove& move : moves) {
    if (is_copied) options.moved(options.context, move);
  }
  return heap.end_pass(moves);
}

Outcome ask_stream(Gpu& gpu, cuda::Stream stream) noexcept {
  const CurrentContext current(gpu);
  return gpu.check_not_captured(stream);
}

}  // namespace

DefragmentResult defragment(DeviceHeap& heap, const DefragmentOptions& options) noexcept {
  DefragmentResult result;
  if (options.may_move == nullptr || options.moved == nullptr) {
    result.outcome = Status::bad_argument;
    return result;
  }
  result.outcome = ask_stream(heap.gpu(), options.stream);
  if (!result.outcome.ok()) return result;
  const std::uint64_t start_ns = os::clock_fine_ns();
  HeapMove moves[kMovesMax];
  HeapPassOptions pass;
  pass.fill_max_percent = options.fill_max_percent;
  pass.may_move = options.may_move;
  pass.context = options.context;
  while (result.passes < kPassesMax) {
    pass.max_bytes = options.max_bytes - result.bytes_moved;
    std::size_t count = 0;
    result.outcome = heap.begin_pass(pass, moves, &count);
    if (!result.outcome.ok()) break;
    const std::span<HeapMove> planned(moves, count);
    const Copied copied = copy_all(heap.gpu(), planned, options.stream);
    result.outcome = copied.outcome;
    const HeapPassResult done = finish(heap, options, planned, copied);
    if (result.passes++ == 0) result.largest_before_bytes = done.largest_before_bytes;
    result.largest_after_bytes = done.largest_after_bytes;
    result.blocks_moved += done.blocks_moved;
    result.bytes_moved += done.bytes_moved;
    result.chunks_emptied += done.chunks_emptied;
    if (!result.outcome.ok() || count == 0) break;
  }
  result.duration_us = (os::clock_fine_ns() - start_ns) / 1000;
  return result;
}

}  // namespace glebe::device
