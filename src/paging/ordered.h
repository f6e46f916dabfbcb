// A set of intrusive elements in the order of a key: a treap (Seidel, Aragon 1996) whose heap order comes
// from a hash of the key, so that the same keys always give the same tree.
//
// Insert and remove take O(log n) steps on average, the first element O(log n), each following one O(1) on
// average. The links are the ones of ListNode (next: left child, previous: right child) and one parent link,
// so that an element can be in a List or in an OrderedSet, not in both. Keys differ. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>

namespace glebe::paging {

// Elements of type T with members `next`, `previous` of a node base type Node and `T* parent`. Key is a type
// with `static std::uint64_t major(const T*)` and `minor(const T*)`: order by major, then by minor.
template <typename T, typename Node, typename Key>
class OrderedSet {
 public:
  constexpr OrderedSet() noexcept = default;
  OrderedSet(const OrderedSet&) = delete;
  OrderedSet& operator=(const OrderedSet&) = delete;

  [[nodiscard]] std::size_t count() const noexcept { return count_; }

  void insert(T* item) noexcept {
    T* above = nullptr;
    for (T* at = root_; at != nullptr; at = is_before(item, at) ? left(at) : right(at)) above = at;
    item->parent = above;
    set_left(item, nullptr);
    set_right(item, nullptr);
    if (above == nullptr) {
      root_ = item;
    } else if (is_before(item, above)) {
      set_left(above, item);
    } else {
      set_right(above, item);
    }
    while (item->parent != nullptr && weight(item) < weight(item->parent)) rotate_up(item);
    ++count_;
  }

  // `item` is in this set.
  void remove(T* item) noexcept {
    while (left(item) != nullptr && right(item) != nullptr) {
      rotate_up(weight(left(item)) < weight(right(item)) ? left(item) : right(item));
    }
    T* const child = left(item) != nullptr ? left(item) : right(item);
    replace_child(item->parent, item, child);
    item->parent = nullptr;
    set_left(item, nullptr);
    set_right(item, nullptr);
    --count_;
  }

  [[nodiscard]] T* first() const noexcept {
    T* at = root_;
    while (at != nullptr && left(at) != nullptr) at = left(at);
    return at;
  }
  [[nodiscard]] static T* next(T* item) noexcept {
    if (right(item) != nullptr) {
      T* at = right(item);
      while (left(at) != nullptr) at = left(at);
      return at;
    }
    T* above = item->parent;
    while (above != nullptr && right(above) == item) {
      item = above;
      above = above->parent;
    }
    return above;
  }

 private:
  static T* left(T* item) noexcept { return static_cast<T*>(static_cast<Node*>(item)->next); }
  static T* right(T* item) noexcept { return static_cast<T*>(static_cast<Node*>(item)->previous); }
  static void set_left(T* item, T* child) noexcept { static_cast<Node*>(item)->next = child; }
  static void set_right(T* item, T* child) noexcept { static_cast<Node*>(item)->previous = child; }

  static bool is_before(const T* a, const T* b) noexcept {
    if (Key::major(a) != Key::major(b)) return Key::major(a) < Key::major(b);
    return Key::minor(a) < Key::minor(b);
  }
  static std::uint64_t weight(const T* item) noexcept {
    std::uint64_t z = (Key::minor(item) + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 32)) * 0xD6E8FEB86659FD93u;
    return z ^ (z >> 29);
  }

  void replace_child(T* above, T* old_child, T* new_child) noexcept {
    if (above == nullptr) {
      root_ = new_child;
    } else if (left(above) == old_child) {
      set_left(above, new_child);
    } else {
      set_right(above, new_child);
    }
    if (new_child != nullptr) new_child->parent = above;
  }

  void rotate_up(T* item) noexcept {
    T* const above = item->parent;
    replace_child(above->parent, above, item);
    if (left(above) == item) {
      T* const middle = right(item);
      set_left(above, middle);
      if (middle != nullptr) middle->parent = above;
      set_right(item, above);
    } else {
      T* const middle = left(item);
      set_right(above, middle);
      if (middle != nullptr) middle->parent = above;
      set_left(item, above);
    }
    above->parent = item;
  }

  T* root_ = nullptr;
  std::size_t count_ = 0;
};

}  // namespace glebe::paging
