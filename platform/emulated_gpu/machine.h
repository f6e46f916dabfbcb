// The emulated driver: one function for each entry of the table, over physical memory, addresses, host
// memory, streams and modules (namespace glebe::os::emulated).
//
// Every entry is a member function of the entry's name and signature. Before it runs, enter() answers for the
// whole driver what does not depend on the call: not initialised, called from a host function, a context in
// error, no current context. One lock guards everything; it is let go while work is done or waited for.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "platform/cuda/driver.h"
#include "platform/emulated_gpu/address_space.h"
#include "platform/emulated_gpu/arrays.h"
#include "platform/emulated_gpu/emulated_gpu.h"
#include "platform/emulated_gpu/physical.h"
#include "platform/emulated_gpu/queues.h"
#include "platform/emulated_gpu/store.h"
#include "platform/thread.h"

// What the handles of the table point to.
namespace glebe::os::cuda {

struct ContextObject {
  int device;
};
struct FunctionObject {
  const EmulatedKernel* kernel;
  ModuleObject* module;
};
struct ModuleObject {
  FunctionObject functions[EmulatedGpu::kKernelsMax];  // by number of the kernel; null: not in the module
};
struct MemoryPoolObject {
  std::uint64_t threshold_bytes, max_bytes;  // kept at a wait; at most, 0: no limit
  std::uint64_t reserved_bytes, reserved_high_bytes, used_high_bytes;
  bool is_destroyed;  // it goes with the last of its memory
};

}  // namespace glebe::os::cuda

namespace glebe::os::emulated {

// Memory of the host that the device may use: allocated by the driver, or registered by the program.
struct HostRange {
  std::uintptr_t base;
  std::size_t size_bytes;
  std::size_t mapped_bytes;  // whole pages, if allocated; 0 if registered
};

// Memory of a pool: see memory_pools.cpp.
struct PoolBlock {
  enum class State : std::uint8_t {
    changing,  // a call that has to wait has it
    live,
    freed
  };
  cuda::DevicePointer address;
  std::size_t size_bytes;
  cuda::MemoryPool pool;
  cuda::StreamPlace allocated_at, freed_at;
  State state;
};

template <class Signature>
struct EntryFunction;
template <class... Arguments>
struct EntryFunction<cuda::Result(Arguments...)> {
  using Type = cuda::Result(Arguments...) noexcept;
};

template <cuda::Call kCall, auto kMember, class Signature>
struct MachineCall;

class Machine {
 public:
  using Options = EmulatedGpu::Options;
  using Result = cuda::Result;

  [[nodiscard]] bool open(const Options& options) noexcept;
  void close() noexcept;
  [[nodiscard]] cuda::Driver driver() noexcept;
  [[nodiscard]] EmulatedGpu::Usage usage() noexcept;
  void set_device_bytes(std::size_t size_bytes) noexcept;
  void set_capture_status(cuda::Stream stream, cuda::CaptureStatus status) noexcept;
  unsigned run(unsigned count) noexcept;

 private:
  template <cuda::Call kCall, auto kMember, class Signature>
  friend struct MachineCall;

  // What every call is answered with that cannot go on; success otherwise.
  [[nodiscard]] Result enter(cuda::Call call) noexcept;

  // The entries: member functions, declared by their types.
  using Context = cuda::Context;
  using Device = cuda::Device;
  using DeviceAttribute = cuda::DeviceAttribute;
  using DevicePointer = cuda::DevicePointer;
  using MemoryHandle = cuda::MemoryHandle;
  using AllocationProperties = cuda::AllocationProperties;
  using AccessDescription = cuda::AccessDescription;
  using Location = cuda::Location;
  using Granularity = cuda::Granularity;
  using HandleType = cuda::HandleType;
  using PointerAttribute = cuda::PointerAttribute;
  using Stream = cuda::Stream;
  using Event = cuda::Event;
  using CaptureStatus = cuda::CaptureStatus;
  using CaptureMode = cuda::CaptureMode;
  using HostFunction = cuda::HostFunction;
  using Module = cuda::Module;
  using Function = cuda::Function;
  using MemoryPool = cuda::MemoryPool;
  using PoolAttribute = cuda::PoolAttribute;
  using PoolProperties = cuda::PoolProperties;
  using Array = cuda::Array;
  using MipmappedArray = cuda::MipmappedArray;
  using ArrayDescription = cuda::ArrayDescription;
  using SparseProperties = cuda::SparseProperties;
  using ArrayMapInfo = cuda::ArrayMapInfo;
  using Copy3D = cuda::Copy3D;
#define GPU_CALL(name, symbol, version, ...) EntryFunction<__VA_ARGS__>::Type name;
#include "platform/cuda/driver.def"
#undef GPU_CALL

  struct ThreadContext {
    std::uint64_t thread;  // as the kernel numbers them; 0: free
    bool is_current;
    CaptureMode capture_mode;
  };
  // What an operand of a copy may be.
  enum class Operand : std::uint8_t { device, host, any };
  struct Copy {
    DevicePointer to, from;
    std::size_t size_bytes;
    Operand to_kind, from_kind;
  };
  struct Fill {
    DevicePointer to;
    std::uint64_t value, count;
    unsigned unit_bytes;
    Operation::Kind kind;
  };

  // Devices and contexts.
  [[nodiscard]] ThreadContext* of_thread(bool must_exist) noexcept;
  [[nodiscard]] int attribute(cuda::DeviceAttribute attribute) const noexcept;
  // Memory.
  [[nodiscard]] Result check(const cuda::AllocationProperties* properties) const noexcept;
  [[nodiscard]] Result allocate_granules(std::size_t bytes, DevicePointer* address) noexcept;
  [[nodiscard]] HostRange* host_range_at(std::uintptr_t address) noexcept;
  [[nodiscard]] bool overlaps_host_range(std::uintptr_t base, std::size_t size_bytes) noexcept;
  // Where an operand is to be read or written by the device; nullptr: not there, or no such access.
  [[nodiscard]] std::byte* locate(DevicePointer address, std::size_t size_bytes, Operand kind,
                                  cuda::AccessFlags access) noexcept;
  [[nodiscard]] bool is_pageable(DevicePointer address) noexcept;
  [[nodiscard]] Result queue_copy(const Copy& copy, cuda::StreamObject* stream) noexcept;
  [[nodiscard]] Result copy_async(const Copy& copy, Stream handle) noexcept;
  [[nodiscard]] Result copy_now(const Copy& copy) noexcept;
  [[nodiscard]] Result fill_async(const Fill& fill, Stream handle) noexcept;
  // Pools.
  [[nodiscard]] PoolBlock* pool_block_at(DevicePointer address) noexcept;
  [[nodiscard]] bool is_idle(const PoolBlock& block) noexcept;
  [[nodiscard]] std::uint64_t used_bytes(MemoryPool pool) noexcept;
  void release(PoolBlock* block) noexcept;
  void release_idle(MemoryPool pool, std::uint64_t keep_bytes) noexcept;
  void end_pools() noexcept;
  void settle_pools() noexcept;
  [[nodiscard]] bool is_before(const cuda::StreamPlace& place, const cuda::StreamObject* stream) noexcept;
  [[nodiscard]] PoolBlock* find_freed(MemoryPool pool, std::size_t size_bytes,
                                      const cuda::StreamObject* stream) noexcept;
  [[nodiscard]] Result take_block(MemoryPool pool, std::size_t size_bytes, const cuda::StreamObject* stream,
                                  PoolBlock** taken) noexcept;
  [[nodiscard]] Result queue_access(PoolBlock* block, bool is_given, cuda::StreamObject* stream) noexcept;
  [[nodiscard]] Result free_pooled(PoolBlock* block) noexcept;
  // Sparse arrays. Level count 0: an array without levels.
  [[nodiscard]] Result make_array(const ArrayDescription* wanted, unsigned levels,
                                  cuda::MipmappedArrayObject** made) noexcept;
  void end_arrays() noexcept;
  [[nodiscard]] Result end_array(cuda::MipmappedArrayObject* array) noexcept;
  [[nodiscard]] cuda::ArrayObject* find_array(Array handle) noexcept;
  [[nodiscard]] cuda::MipmappedArrayObject* find_mipmapped(MipmappedArray handle) noexcept;
  [[nodiscard]] Result find_target(const ArrayMapInfo& info, cuda::MipmappedArrayObject** array) noexcept;
  [[nodiscard]] Result check(const ArrayMapInfo& info, ArrayMapping* mapping) noexcept;
  [[nodiscard]] Result check(const Copy3D& copy, ArrayCopy* box, bool* is_pageable_side) noexcept;
  [[nodiscard]] Result find_rows(const cuda::Copy3DSide& linear, ArrayCopy* box,
                                 bool* is_pageable_side) noexcept;
  [[nodiscard]] Result queue_box(const Copy3D* copy, cuda::StreamObject* stream) noexcept;

  Mutex lock_;
  Options options_;
  std::atomic<bool> is_initialised_{false};
  std::atomic<std::uint64_t> undefined_calls_{0};
  unsigned context_users_ = 0;  // of the primary context
  cuda::ContextObject context_ = {0};
  Table<ThreadContext> threads_;
  PhysicalMemory physical_;
  AddressSpace addresses_;
  Queues queues_;
  Store<HostRange> host_ranges_;
  Store<cuda::ModuleObject> modules_;
  Store<cuda::MemoryPoolObject> pools_;
  Store<PoolBlock> pool_blocks_;
  MemoryPool default_pool_ = nullptr;
  Store<cuda::MipmappedArrayObject> arrays_;
};

}  // namespace glebe::os::emulated
