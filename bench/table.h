// Memory of the bench itself, taken from the kernel: the tables that remember the blocks must neither load
// the allocator under test nor be at its mercy when it hands the same bytes out twice. One owner, not copied.
#pragma once

#include <cstddef>
#include <type_traits>

namespace torture {

// Zeroed pages from mmap; ends the process with a message when the kernel has none.
[[nodiscard]] void* map_pages(std::size_t size_bytes);
void unmap_pages(void* address, std::size_t size_bytes) noexcept;

template <typename T>
class Table {
  static_assert(std::is_trivially_destructible_v<T>);

 public:
  explicit Table(std::size_t count)
      : count_(count), items_(static_cast<T*>(map_pages((count == 0 ? 1 : count) * sizeof(T)))) {}
  ~Table() { unmap_pages(items_, (count_ == 0 ? 1 : count_) * sizeof(T)); }
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  T& operator[](std::size_t index) noexcept { return items_[index]; }
  const T& operator[](std::size_t index) const noexcept { return items_[index]; }
  [[nodiscard]] std::size_t size() const noexcept { return count_; }
  T* begin() noexcept { return items_; }
  T* end() noexcept { return items_ + count_; }

 private:
  std::size_t count_;
  T* items_;
};

}  // namespace torture
