// The two forms of a trace of allocator calls.
//
// Recorded: what trace_record writes. The 8 bytes of kRecordedMagic, then events without padding:
//   byte      kind (low 3 bits) and kThreadChanged
//   varint    thread number, only with kThreadChanged; else the thread of the event before
//   fields    kAllocate, kZeroed: size, address · kFree: address · kResize: size, old address, new address ·
//             kAligned: binary logarithm of the alignment, size, address
// A size is a varint (7 bits a byte, low first, top bit: more follow). An address is the signed difference to
// the last address of the trace divided by 16, as zigzag varint. Ends where the program ended, possibly
// inside an event.
//
// Prepared: what the bench makes of it and its workload reads in a stream. A PreparedHeader, then
// PreparedOps. Addresses have become slots, and each operation knows how many operations on its slot come
// before it, so that several threads can replay a trace and wait only for what they depend on. Everything is
// freed at the end. Temporary, native layout.
#pragma once

#include <cstdint>

namespace torture {

inline constexpr char kRecordedMagic[9] = "glbtrc01";

enum class TraceKind : std::uint8_t { kAllocate = 0, kZeroed = 1, kFree = 2, kResize = 3, kAligned = 4 };
inline constexpr std::uint8_t kTraceKindMask = 7;
inline constexpr std::uint8_t kThreadChanged = 8;

[[nodiscard]] constexpr std::uint64_t zigzag(std::int64_t value) noexcept {
  return (static_cast<std::uint64_t>(value) << 1) ^ static_cast<std::uint64_t>(value >> 63);
}
[[nodiscard]] constexpr std::int64_t unzigzag(std::uint64_t value) noexcept {
  return static_cast<std::int64_t>(value >> 1) ^ -static_cast<std::int64_t>(value & 1);
}

struct PreparedHeader {
  std::uint64_t operations;
  std::uint32_t slots;
  std::uint32_t threads;
};

struct PreparedOp {
  std::uint32_t slot;
  std::uint32_t turn;  // operations on this slot before this one
  std::uint32_t size;  // bytes; at least 1 unless kFree
  std::uint16_t thread;
  TraceKind kind;
  std::uint8_t alignment_log2;  // only kAligned
};
static_assert(sizeof(PreparedOp) == 16);

}  // namespace torture
