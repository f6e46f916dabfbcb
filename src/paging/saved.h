// How many bytes paging saves: now, at the most, and on average over time (namespace glebe::paging).
//
// One thread notes, any thread reads.
#pragma once

#include <atomic>
#include <cstdint>

namespace glebe::paging {

class SavedBytes {
 public:
  // `bytes` are saved from now on.
  void note(std::uint64_t now_ms, std::uint64_t bytes) noexcept {
    constexpr auto kRelaxed = std::memory_order_relaxed;
    const std::uint64_t first = first_ms_.load(kRelaxed);
    if (first == 0) {
      first_ms_.store(now_ms, kRelaxed);
    } else {
      byte_ms_.store(byte_ms_.load(kRelaxed) + bytes_ * (now_ms - last_ms_.load(kRelaxed)), kRelaxed);
    }
    last_ms_.store(now_ms, kRelaxed);
    bytes_ = bytes;
    if (bytes > peak_.load(kRelaxed)) peak_.store(bytes, kRelaxed);
  }
  [[nodiscard]] std::uint64_t peak() const noexcept { return peak_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t average() const noexcept {
    constexpr auto kRelaxed = std::memory_order_relaxed;
    const std::uint64_t passed_ms = last_ms_.load(kRelaxed) - first_ms_.load(kRelaxed);
    return passed_ms == 0 ? 0 : byte_ms_.load(kRelaxed) / passed_ms;
  }
  // In a forked child, whose numbers begin at the fork.
  void reset() noexcept {
    for (std::atomic<std::uint64_t>* each : {&first_ms_, &last_ms_, &byte_ms_, &peak_}) {
      each->store(0, std::memory_order_relaxed);
    }
    bytes_ = 0;
  }

 private:
  std::atomic<std::uint64_t> first_ms_{0}, last_ms_{0};
  std::atomic<std::uint64_t> byte_ms_{0};  // bytes times milliseconds; 2^64 are 5 TiB for an hour
  std::atomic<std::uint64_t> peak_{0};
  std::uint64_t bytes_ = 0;  // of the thread that notes
};

}  // namespace glebe::paging
