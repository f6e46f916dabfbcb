// Intrusive lists: the links are a base class of the elements, so a list never allocates.
//
// List is doubly linked and belongs to whoever holds the lock of its owner. PushStack takes elements from any
// number of threads and gives all of them to one: elements are never popped singly, so an address that comes
// back cannot confuse a compare-and-swap (no ABA). All-zero memory is an empty list and an unlinked element.
// An element that is in several lists at once derives from one node type per list, told apart by a tag.
#pragma once

#include <atomic>
#include <cstddef>

#include "src/base/check.h"

namespace glebe {

template <typename Tag = void>
struct ListNode {
  ListNode* next = nullptr;
  ListNode* previous = nullptr;
};

// Elements of type T, which derives from ListNode<Tag>. Not thread-safe.
template <typename T, typename Tag = void>
class List {
 public:
  using Node = ListNode<Tag>;

  constexpr List() noexcept = default;
  List(const List&) = delete;
  List& operator=(const List&) = delete;

  [[nodiscard]] bool is_empty() const noexcept { return first_ == nullptr; }
  [[nodiscard]] T* first() const noexcept { return element(first_); }
  [[nodiscard]] T* last() const noexcept { return element(last_); }
  [[nodiscard]] static T* next(const T* item) noexcept { return element(node(item)->next); }
  [[nodiscard]] static T* previous(const T* item) noexcept { return element(node(item)->previous); }

  // Whether this list holds `item`, which is in this list or in none. The links of an unlinked element are
  // null.
  [[nodiscard]] bool contains(const T* item) const noexcept {
    return node(item)->next != nullptr || node(item)->previous != nullptr || first_ == node(item);
  }

  void push_front(T* item) noexcept { link(nullptr, item, first_); }
  void push_back(T* item) noexcept { link(last_, item, nullptr); }
  void insert_before(T* position, T* item) noexcept { link(node(position)->previous, item, node(position)); }
  void insert_after(T* position, T* item) noexcept { link(node(position), item, node(position)->next); }

  // `item` is in this list.
  void remove(T* item) noexcept {
    Node* const removed = node(item);
    ASSERT(contains(item));
    (removed->previous != nullptr ? removed->previous->next : first_) = removed->next;
    (removed->next != nullptr ? removed->next->previous : last_) = removed->previous;
    removed->next = nullptr;
    removed->previous = nullptr;
  }

  // The first element, taken out; nullptr when the list is empty.
  [[nodiscard]] T* pop_front() noexcept {
    T* const item = first();
    if (item != nullptr) remove(item);
    return item;
  }
  [[nodiscard]] T* pop_back() noexcept {
    T* const item = last();
    if (item != nullptr) remove(item);
    return item;
  }

  // Moves all elements of `other` behind the last one of this list.
  void append_all(List& other) noexcept {
    if (other.first_ == nullptr) return;
    (last_ != nullptr ? last_->next : first_) = other.first_;
    other.first_->previous = last_;
    last_ = other.last_;
    other.first_ = nullptr;
    other.last_ = nullptr;
  }

  // Empties the list without touching the elements. For lists whose links can no longer be trusted.
  void forget_all() noexcept {
    first_ = nullptr;
    last_ = nullptr;
  }

  // Number of elements; walks the list.
  [[nodiscard]] std::size_t count() const noexcept {
    std::size_t result = 0;
    for (const Node* at = first_; at != nullptr; at = at->next) ++result;
    return result;
  }

  // True when the links of at most `count_max` elements agree in both directions. For tests and debug builds.
  [[nodiscard]] bool validate(std::size_t count_max) const noexcept {
    const Node* before = nullptr;
    const Node* at = first_;
    for (std::size_t seen = 0; at != nullptr; ++seen) {
      if (seen == count_max || at->previous != before) return false;
      before = at;
      at = at->next;
    }
    return last_ == before;
  }

 private:
  static T* element(Node* at) noexcept { return static_cast<T*>(at); }
  static Node* node(T* item) noexcept { return item; }
  static const Node* node(const T* item) noexcept { return item; }

  void link(Node* before, T* item, Node* after) noexcept {
    Node* const added = node(item);
    ASSERT(!contains(item));
    added->previous = before;
    added->next = after;
    (before != nullptr ? before->next : first_) = added;
    (after != nullptr ? after->previous : last_) = added;
  }

  Node* first_ = nullptr;
  Node* last_ = nullptr;
};

template <typename Tag = void>
struct StackNode {
  StackNode* stack_next = nullptr;
};

// Elements of type T, which derives from StackNode<Tag>. push() from any thread; take_all() too, each element
// goes to exactly one taker. Lock-free; the links of an element belong to the stack until it is taken.
template <typename T, typename Tag = void>
class PushStack {
 public:
  using Node = StackNode<Tag>;

  constexpr PushStack() noexcept = default;
  PushStack(const PushStack&) = delete;
  PushStack& operator=(const PushStack&) = delete;

  // A hint that may be out of date at once. Relaxed: whoever acts on it calls take_all(), which synchronises.
  [[nodiscard]] bool looks_empty() const noexcept { return head_.load(std::memory_order_relaxed) == nullptr; }

  void push(T* item) noexcept { push_chain(item, item); }

  // Pushes a chain that the caller has linked with set_next(); `last` needs no link. The retry is bounded by
  // the number of pushes of other threads: each failure means that one of them went through.
  void push_chain(T* first, T* last) noexcept {
    Node* const bottom = last;
    Node* head = head_.load(std::memory_order_relaxed);
    do {
      bottom->stack_next = head;
      // The release pairs with the acquire in take_all(): the taker sees the elements' contents.
    } while (!head_.compare_exchange_weak(head, static_cast<Node*>(first), std::memory_order_release,
                                          std::memory_order_relaxed));
  }

  // Takes everything: the element pushed last, from which next() leads to the others; nullptr when there is
  // none.
  [[nodiscard]] T* take_all() noexcept {
    if (looks_empty()) return nullptr;
    return static_cast<T*>(head_.exchange(nullptr, std::memory_order_acquire));  // pairs with push_chain()
  }

  [[nodiscard]] static T* next(const T* item) noexcept { return static_cast<T*>(node(item)->stack_next); }
  static void set_next(T* item, T* next_item) noexcept { static_cast<Node*>(item)->stack_next = next_item; }

 private:
  static const Node* node(const T* item) noexcept { return item; }

  std::atomic<Node*> head_{nullptr};
};

}  // namespace glebe
