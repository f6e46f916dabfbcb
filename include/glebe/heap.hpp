// glebe in C++: heaps and arenas that end with their scope, a std::pmr resource and allocators for
// containers. Header-only over glebe.h. Functions that allocate throw std::bad_alloc where the comment does
// not say otherwise.
#pragma once

#include <glebe/glebe.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory_resource>
#include <new>
#include <type_traits>
#include <utility>

namespace glebe {

// A first-class heap: blocks that are freed one by one, or all at once when the heap ends. Any thread may
// allocate from it and free to it; moving and ending it is for one thread. A moved-from heap is empty: it may
// only be assigned to, asked by is_valid() and destroyed.
class Heap {
 public:
  Heap() : handle_(glebe_heap_new()) {
    if (handle_ == nullptr) throw std::bad_alloc();
  }
  ~Heap() { glebe_heap_free(handle_); }
  Heap(Heap&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Heap& operator=(Heap&& other) noexcept {
    if (this != &other) {
      glebe_heap_free(handle_);
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  // nullptr when there is no memory. The alignment is a power of two.
  [[nodiscard]] void* try_allocate(std::size_t size_bytes) noexcept {
    return glebe_heap_malloc(handle_, size_bytes);
  }
  [[nodiscard]] void* try_allocate(std::size_t size_bytes, std::size_t align_bytes) noexcept {
    return glebe_heap_aligned_alloc(handle_, align_bytes, size_bytes);
  }
  [[nodiscard]] void* allocate(std::size_t size_bytes, std::size_t align_bytes = alignof(std::max_align_t)) {
    void* block = try_allocate(size_bytes, align_bytes);
    if (block == nullptr) throw std::bad_alloc();
    return block;
  }
  // Also frees blocks of other heaps.
  static void deallocate(void* block) noexcept { glebe_free(block); }

  [[nodiscard]] bool owns(const void* block) const noexcept {
    return handle_ != nullptr && glebe_heap_of(block) == handle_;
  }
  [[nodiscard]] bool is_valid() const noexcept { return handle_ != nullptr; }
  [[nodiscard]] glebe_heap* handle() const noexcept { return handle_; }

 private:
  glebe_heap* handle_;
};

// Blocks that are never freed one by one: they are cut one after the other from steps of a heap of its own,
// and all go at once by release() or with the arena. Not thread-safe. The first allocation creates the heap.
class Arena {
 public:
  Arena() noexcept = default;
  ~Arena() { release(); }
  Arena(Arena&& other) noexcept { swap(other); }
  Arena& operator=(Arena&& other) noexcept {
    if (this != &other) {
      release();
      swap(other);
    }
    return *this;
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // The alignment is a power of two.
  [[nodiscard]] void* allocate(std::size_t size_bytes, std::size_t align_bytes = alignof(std::max_align_t)) {
    if (size_bytes == 0) size_bytes = 1;  // blocks have different addresses
    const std::size_t gap = (0 - at_) & (align_bytes - 1);
    if (gap > end_ - at_ || size_bytes > end_ - at_ - gap) return allocate_slow(size_bytes, align_bytes);
    auto* block = reinterpret_cast<void*>(at_ + gap);
    at_ += gap + size_bytes;
    used_bytes_ += size_bytes;
    return block;
  }

  // Frees every block. The arena can be used again.
  void release() noexcept {
    glebe_heap_free(std::exchange(heap_, nullptr));
    at_ = end_ = 0;
    used_bytes_ = 0;
    next_step_bytes_ = kFirstStepBytes;
  }

  // What was asked for since the last release.
  [[nodiscard]] std::size_t used_bytes() const noexcept { return used_bytes_; }

 private:
  // Steps double, so that their number stays small, up to a size at which they are not wasteful.
  static constexpr std::size_t kFirstStepBytes = std::size_t{16} << 10;
  static constexpr std::size_t kLastStepBytes = std::size_t{1} << 20;

  void* allocate_slow(std::size_t size_bytes, std::size_t align_bytes) {
    if (heap_ == nullptr) heap_ = glebe_heap_new();
    if (heap_ == nullptr) throw std::bad_alloc();
    // A block that would take most of a step gets memory of its own, and the step is kept for others.
    if (size_bytes > next_step_bytes_ / 4 || align_bytes > next_step_bytes_ / 4) {
      void* block = glebe_heap_aligned_alloc(heap_, align_bytes, size_bytes);
      if (block == nullptr) throw std::bad_alloc();
      used_bytes_ += size_bytes;
      return block;
    }
    void* step = glebe_heap_malloc(heap_, next_step_bytes_);
    if (step == nullptr) throw std::bad_alloc();
    at_ = reinterpret_cast<std::uintptr_t>(step);
    end_ = at_ + next_step_bytes_;
    if (next_step_bytes_ < kLastStepBytes) next_step_bytes_ *= 2;
    return allocate(size_bytes, align_bytes);  // fits: gap and block take at most a quarter each
  }

  void swap(Arena& other) noexcept {
    std::swap(heap_, other.heap_);
    std::swap(at_, other.at_);
    std::swap(end_, other.end_);
    std::swap(used_bytes_, other.used_bytes_);
    std::swap(next_step_bytes_, other.next_step_bytes_);
  }

  glebe_heap* heap_ = nullptr;
  std::uintptr_t at_ = 0, end_ = 0;  // the rest of the current step
  std::size_t used_bytes_ = 0;
  std::size_t next_step_bytes_ = kFirstStepBytes;
};

// A std::pmr resource on the process heap, or on a Heap that outlives it. Thread-safe. Two resources are
// equal when they are the same object.
class MemoryResource : public std::pmr::memory_resource {
 public:
  MemoryResource() noexcept = default;
  explicit MemoryResource(Heap& heap) noexcept : heap_(heap.handle()) {}

 private:
  void* do_allocate(std::size_t size_bytes, std::size_t align_bytes) override {
    void* block = heap_ != nullptr ? glebe_heap_aligned_alloc(heap_, align_bytes, size_bytes)
                                   : glebe_aligned_alloc(align_bytes, size_bytes);
    if (block == nullptr) throw std::bad_alloc();
    return block;
  }
  void do_deallocate(void* block, std::size_t size_bytes, std::size_t) override {
    glebe_free_sized(block, size_bytes);
  }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }

  glebe_heap* heap_ = nullptr;
};

// An allocator for containers on the process heap. Stateless.
template <typename T>
class Allocator {
 public:
  using value_type = T;
  using propagate_on_container_move_assignment = std::true_type;
  using is_always_equal = std::true_type;

  constexpr Allocator() noexcept = default;
  template <typename U>
  constexpr Allocator(const Allocator<U>&) noexcept {}  // implicit: containers rebind

  [[nodiscard]] T* allocate(std::size_t count) {
    if (count > std::numeric_limits<std::size_t>::max() / sizeof(T)) throw std::bad_array_new_length();
    const std::size_t size_bytes = count * sizeof(T);
    constexpr bool kIsPlain = alignof(T) <= alignof(std::max_align_t);
    void* block = kIsPlain ? glebe_malloc(size_bytes) : glebe_aligned_alloc(alignof(T), size_bytes);
    if (block == nullptr) throw std::bad_alloc();
    return static_cast<T*>(block);
  }
  void deallocate(T* block, std::size_t count) noexcept { glebe_free_sized(block, count * sizeof(T)); }

  template <typename U>
  friend constexpr bool operator==(const Allocator&, const Allocator<U>&) noexcept {
    return true;
  }
};

// An allocator for containers on a Heap that outlives them. Equal when the heaps are the same.
template <typename T>
class HeapAllocator {
 public:
  using value_type = T;
  using propagate_on_container_move_assignment = std::true_type;
  using propagate_on_container_swap = std::true_type;
  using is_always_equal = std::false_type;

  HeapAllocator(Heap& heap) noexcept : heap_(heap.handle()) {}  // implicit: a container takes the heap itself
  template <typename U>
  HeapAllocator(const HeapAllocator<U>& other) noexcept : heap_(other.handle()) {}

  [[nodiscard]] T* allocate(std::size_t count) {
    if (count > std::numeric_limits<std::size_t>::max() / sizeof(T)) throw std::bad_array_new_length();
    void* block = glebe_heap_aligned_alloc(heap_, alignof(T), count * sizeof(T));
    if (block == nullptr) throw std::bad_alloc();
    return static_cast<T*>(block);
  }
  void deallocate(T* block, std::size_t count) noexcept { glebe_free_sized(block, count * sizeof(T)); }

  [[nodiscard]] glebe_heap* handle() const noexcept { return heap_; }

  template <typename U>
  friend bool operator==(const HeapAllocator& a, const HeapAllocator<U>& b) noexcept {
    return a.handle() == b.handle();
  }

 private:
  glebe_heap* heap_;
};

}  // namespace glebe
