// A reserved range of equal units that is committed as it grows, placed by the TLSF engine (namespace
// glebe::paging). It holds the memory of buffers (units are os pages), their records, and the memory of the
// emulated device.
//
// Units keep their contents when they are given back and taken again; fresh ones are zero. The range is
// committed from the front and never decommitted, so that it stays one mapping of the kernel; whoever wants
// memory back purges. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "platform/thread.h"
#include "src/placement/tlsf.h"

namespace glebe::paging {

class Space {
 public:
  constexpr Space() noexcept = default;
  ~Space() { close(); }
  Space(const Space&) = delete;
  Space& operator=(const Space&) = delete;

  // Reserves `capacity_units` <= placement::kTlsfUnitsMax units of `unit_bytes`, or half as many and so on
  // down to `least_units` where the system has no addresses. False: refused.
  [[nodiscard]] bool open(std::uint32_t capacity_units, std::size_t unit_bytes,
                          std::uint32_t least_units) noexcept;
  void close() noexcept;  // nobody uses it any more

  // A run of `count` units, or an empty one: no addresses, or no memory for tables.
  [[nodiscard]] placement::Run take(std::uint32_t count) noexcept;
  // The run that starts at `first`; false: none does.
  [[nodiscard]] bool give_back(std::uint32_t first) noexcept;
  // Makes the run that starts at `first` `count` units long where it is. False: what lies behind it is taken.
  [[nodiscard]] bool resize(std::uint32_t first, std::uint32_t count) noexcept;

  [[nodiscard]] std::byte* at(std::uint32_t unit) const noexcept { return base_ + unit * unit_bytes_; }
  [[nodiscard]] std::uint32_t unit_of(const void* address) const noexcept {
    return static_cast<std::uint32_t>(
        static_cast<std::size_t>(static_cast<const std::byte*>(address) - base_) / unit_bytes_);
  }
  [[nodiscard]] std::uint32_t capacity_units() const noexcept { return capacity_; }
  [[nodiscard]] std::uint32_t used_units() noexcept;
  [[nodiscard]] std::uint32_t free_units() noexcept { return capacity_ - used_units(); }
  // Units [0, known_units()) were handed out at some time; reading them is allowed.
  [[nodiscard]] std::uint32_t known_units() noexcept;
  void reset_lock_in_child() noexcept { lock_.reset_in_child(); }

 private:
  [[nodiscard]] bool grow(std::uint32_t count) noexcept;

  os::Mutex lock_;  // guards all that follows except the constants base_, unit_bytes_, capacity_
  std::byte* base_ = nullptr;
  placement::Tag* tags_ = nullptr;
  std::size_t unit_bytes_ = 0, base_bytes_ = 0, tag_bytes_ = 0;
  std::size_t base_committed_ = 0, tags_committed_ = 0;
  std::uint32_t capacity_ = 0;
  placement::Tlsf engine_;
};

}  // namespace glebe::paging
