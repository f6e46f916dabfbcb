// Objects and tables of the emulated driver in memory of their own (namespace glebe::os::emulated): addresses
// are reserved for the most that there can be, memory is committed as it is used. Not thread-safe: the lock
// of the machine guards them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <type_traits>

#include "platform/vm.h"
#include "src/base/bits.h"
#include "src/base/check.h"

namespace glebe::os::emulated {

// An array of zeros; the system gives its memory page by page as it is written.
template <class Item>
class Table {
 public:
  static_assert(std::is_trivially_destructible_v<Item>);
  Table() noexcept = default;
  ~Table() { close(); }
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  [[nodiscard]] bool open(std::size_t count) noexcept {
    size_bytes_ = align_up(count * sizeof(Item), page_bytes());
    void* base = reserve(size_bytes_, page_bytes());
    if (base == nullptr) return false;
    items_ = static_cast<Item*>(base);
    return commit(base, size_bytes_);
  }
  void close() noexcept {
    if (items_ != nullptr) release(items_, size_bytes_);
    items_ = nullptr;
  }
  [[nodiscard]] Item& operator[](std::size_t index) noexcept { return items_[index]; }
  [[nodiscard]] const Item& operator[](std::size_t index) const noexcept { return items_[index]; }
  [[nodiscard]] Item* data() noexcept { return items_; }

 private:
  Item* items_ = nullptr;
  std::size_t size_bytes_ = 0;
};

// Objects that stay where they are from take() to give_back(). Each has a number; a number is used again,
// with a generation that tells the objects apart.
template <class Item>
class Store {
 public:
  [[nodiscard]] bool open(std::uint32_t count_max) noexcept {
    count_max_ = count_max;
    return slots_.open(count_max);
  }
  void close() noexcept {
    slots_.close();
    used_ = live_ = first_free_ = 0;
  }

  // A fresh object, or nullptr: too many.
  [[nodiscard]] Item* take() noexcept {
    std::uint32_t index = first_free_ - 1;
    if (first_free_ != 0) {
      first_free_ = slots_[index].next_free;
    } else {
      if (used_ == count_max_) return nullptr;
      index = used_++;
    }
    Slot& slot = slots_[index];
    slot.is_live = true;
    ++slot.generation;
    ++live_;
    return new (&slot.memory) Item();
  }
  void give_back(Item* item) noexcept {
    const std::uint32_t index = index_of(item);
    Slot& slot = slots_[index];
    CHECK(slot.is_live);
    slot.is_live = false;
    slot.next_free = first_free_;
    first_free_ = index + 1;
    --live_;
  }

  // Whether an address that a program handed in is a live object.
  [[nodiscard]] bool holds(const void* address) noexcept {
    const std::uintptr_t offset = reinterpret_cast<std::uintptr_t>(address) - base();
    if (offset >= std::uintptr_t{used_} * sizeof(Slot) || offset % sizeof(Slot) != 0) return false;
    return slots_[offset / sizeof(Slot)].is_live;
  }
  // The live object with a number, or nullptr.
  [[nodiscard]] Item* find(std::uint32_t index) noexcept {
    return index < used_ && slots_[index].is_live ? item_of(slots_[index]) : nullptr;
  }
  [[nodiscard]] std::uint32_t index_of(const Item* item) noexcept {
    return static_cast<std::uint32_t>((reinterpret_cast<std::uintptr_t>(item) - base()) / sizeof(Slot));
  }
  [[nodiscard]] std::uint32_t generation_of(const Item* item) noexcept {
    return slots_[index_of(item)].generation;
  }
  [[nodiscard]] std::uint32_t live() const noexcept { return live_; }
  [[nodiscard]] std::uint32_t used() const noexcept { return used_; }  // numbers are below this

 private:
  struct Slot {
    alignas(Item) std::byte memory[sizeof(Item)];
    std::uint32_t next_free, generation;
    bool is_live;
  };
  static_assert(std::is_trivially_destructible_v<Item>);

  [[nodiscard]] std::uintptr_t base() noexcept { return reinterpret_cast<std::uintptr_t>(slots_.data()); }
  [[nodiscard]] static Item* item_of(Slot& slot) noexcept {
    return std::launder(reinterpret_cast<Item*>(&slot.memory));
  }

  Table<Slot> slots_;
  std::uint32_t count_max_ = 0, used_ = 0, live_ = 0;
  std::uint32_t first_free_ = 0;  // number + 1
};

}  // namespace glebe::os::emulated
