// Lists of blocks and the counts that go with them. See stream_pool_slot.h.
#include "src/device/stream_pool_slot.h"

namespace glebe::device {

void BlockList::push_front(const BlockTable& blocks, BlockNumber number) noexcept {
  Block& block = blocks[number];
  block.previous = kNoBlock;
  block.next = front;
  if (front != kNoBlock) {
    blocks[front].previous = number;
  } else {
    back = number;
  }
  front = number;
}

void BlockList::push_back(const BlockTable& blocks, BlockNumber number) noexcept {
  Block& block = blocks[number];
  block.next = kNoBlock;
  block.previous = back;
  if (back != kNoBlock) {
    blocks[back].next = number;
  } else {
    front = number;
  }
  back = number;
}

void BlockList::remove(const BlockTable& blocks, BlockNumber number) noexcept {
  const Block& block = blocks[number];
  if (block.previous != kNoBlock) {
    blocks[block.previous].next = block.next;
  } else {
    front = block.next;
  }
  if (block.next != kNoBlock) {
    blocks[block.next].previous = block.previous;
  } else {
    back = block.previous;
  }
}

// Marked with the open epoch: newer than all that lie there.
void StreamSlot::put(const BlockTable& blocks, BlockList& list, BlockNumber number) noexcept {
  Block& block = blocks[number];
  block.epoch = open_epoch.load(std::memory_order_relaxed);
  ++open_frees;
  open_bytes += block.size_bytes;
  ++idle_blocks;
  idle_bytes += block.size_bytes;
  list.push_front(blocks, number);
}

void StreamSlot::put_last(const BlockTable& blocks, BlockNumber number) noexcept {
  const Block& block = blocks[number];
  ++idle_blocks;
  idle_bytes += block.size_bytes;
  lists[block.size_class].push_back(blocks, number);
}

void StreamSlot::take(const BlockTable& blocks, BlockList& list, BlockNumber number) noexcept {
  const Block& block = blocks[number];
  list.remove(blocks, number);
  if (block.epoch == open_epoch.load(std::memory_order_relaxed)) {
    --open_frees;
    open_bytes -= block.size_bytes;
  }
  --idle_blocks;
  idle_bytes -= block.size_bytes;
}

// Where its epoch belongs, as far as one look tells: a list is searched from its back, up to the first block
// that is not reached.
void StreamSlot::move(const BlockTable& blocks, BlockList& from, BlockList& to, BlockNumber number) noexcept {
  from.remove(blocks, number);
  if (to.back != kNoBlock && blocks[number].epoch <= blocks[to.back].epoch) {
    to.push_back(blocks, number);
  } else {
    to.push_front(blocks, number);
  }
}

void StreamSlot::hand_out(Block& block, std::uint64_t wanted, BlockOrigin origin) noexcept {
  block.wanted_bytes = wanted;
  ++counts.origins[static_cast<unsigned>(origin)];
  ++counts.live_blocks;
  counts.live_bytes += block.size_bytes;
  counts.wanted_bytes += wanted;
  // Pairs with the exchange of whoever frees it.
  block.word.store(block_word(block.address(), BlockState::live), std::memory_order_release);
}

}  // namespace glebe::device
