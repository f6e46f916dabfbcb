// Scopes that the parts of ResidentHeap share: the mover's lock, and waiting that is counted.
#pragma once

#include "platform/process.h"
#include "src/device/residency.h"

namespace glebe::device {

// Counts a wait and how long it took, when the scope ends. Not inside mutex_.
class [[nodiscard]] ResidentHeap::Stall {
 public:
  Stall(ResidentHeap& heap, StallCause cause) noexcept
      : heap_(heap), cause_(static_cast<unsigned>(cause)), begin_ns_(os::clock_fine_ns()) {}
  ~Stall() {
    const std::uint64_t waited_ns = elapsed_ns();
    const os::Lock lock(heap_.mutex_);
    ++heap_.stats_.stalls[cause_];
    heap_.stats_.stall_ns[cause_] += waited_ns;
  }
  Stall(const Stall&) = delete;
  Stall& operator=(const Stall&) = delete;
  [[nodiscard]] std::uint64_t elapsed_ns() const noexcept { return os::clock_fine_ns() - begin_ns_; }

 private:
  ResidentHeap& heap_;
  const unsigned cause_;
  const std::uint64_t begin_ns_;
};

// Holds the mover's lock for a scope.
class [[nodiscard]] ResidentHeap::Mover {
 public:
  explicit Mover(ResidentHeap& heap) noexcept : heap_(heap) {
    if (heap_.moves_.try_lock()) return;
    const Stall stall(heap_, StallCause::mover);
    heap_.moves_.lock();
  }
  ~Mover() { heap_.moves_.unlock(); }
  Mover(const Mover&) = delete;
  Mover& operator=(const Mover&) = delete;

 private:
  ResidentHeap& heap_;
};

}  // namespace glebe::device
