// What the CUDA driver's interface is made of, in our own declarations: types, numbers, results (namespace
// glebe::os::cuda).
//
// The driver's ABI is stable, so these are facts, and the library builds where no toolkit is. Where cuda.h is
// found, check_declarations.cpp compares every size, offset, number and signature with it at build time.
// Names are the driver's own, without their prefix and in our spelling: CUDA_ERROR_INVALID_VALUE is
// Result::invalid_value. Sizes are bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace glebe::os::cuda {

// What every call answers. Only those that this library meets or gives out have a name; any other number that
// a driver answers with is carried through unchanged.
enum class Result : int {
  success = 0,
  invalid_value = 1,
  out_of_memory = 2,
  not_initialized = 3,
  deinitialized = 4,
  stub_library = 34,
  device_unavailable = 46,
  no_device = 100,
  invalid_device = 101,
  invalid_image = 200,
  invalid_context = 201,
  operating_system = 304,
  invalid_handle = 400,
  illegal_state = 401,
  not_found = 500,
  not_ready = 600,
  illegal_address = 700,
  host_memory_already_registered = 712,
  host_memory_not_registered = 713,
  not_permitted = 800,
  not_supported = 801,
  system_not_ready = 802,
  stream_capture_unsupported = 900,
  unknown = 999,
};

using DevicePointer = unsigned long long;  // shares its numbers with the addresses of the process
using MemoryHandle = unsigned long long;   // physical memory: no address, no access
using Device = int;
using Context = struct ContextObject*;
using Stream = struct StreamObject*;
using Event = struct EventObject*;
using Module = struct ModuleObject*;
using Function = struct FunctionObject*;
using MemoryPool = struct MemoryPoolObject*;
using Array = struct ArrayObject*;
using MipmappedArray = struct MipmappedArrayObject*;
using HostFunction = void (*)(void* user_data);

// Streams that nobody creates: the one that joins all others, and the one of the calling thread.
inline constexpr std::uintptr_t kStreamLegacy = 1;
inline constexpr std::uintptr_t kStreamPerThread = 2;

enum StreamFlags : unsigned { kStreamDefault = 0, kStreamNonBlocking = 1 };
enum EventFlags : unsigned { kEventDefault = 0, kEventBlockingSync = 1, kEventDisableTiming = 2 };
enum HostAllocFlags : unsigned { kHostPortable = 1, kHostDeviceMap = 2, kHostWriteCombined = 4 };
enum HostRegisterFlags : unsigned {
  kRegisterPortable = 1,
  kRegisterDeviceMap = 2,
  kRegisterIoMemory = 4,
  kRegisterReadOnly = 8,
};

enum class DeviceAttribute : int {
  warp_size = 10,
  compute_capability_major = 75,
  compute_capability_minor = 76,
  concurrent_managed_access = 89,
  virtual_memory_management_supported = 102,
  handle_type_posix_file_descriptor_supported = 103,
  generic_compression_supported = 107,
  gpu_direct_rdma_with_cuda_vmm_supported = 110,
  sparse_cuda_array_supported = 112,
  memory_pools_supported = 115,
  deferred_mapping_cuda_array_supported = 121,
  can_use_64_bit_stream_mem_ops = 122,
  handle_type_fabric_supported = 128,
  multicast_supported = 132,
  host_numa_id = 134,
  host_numa_virtual_memory_management_supported = 141,
  host_virtual_memory_management_supported = 145,
};

enum class LocationType : int { invalid = 0, device = 1, host = 2, host_numa = 3, host_numa_current = 4 };
struct Location {
  LocationType type;
  int id;  // device ordinal, or NUMA node; ignored for host
};

enum class AllocationType : int { invalid = 0, pinned = 1, managed = 2 };
enum class HandleType : int { none = 0, posix_file_descriptor = 1, win32 = 2, win32_kmt = 4, fabric = 8 };
enum class Granularity : int { minimum = 0, recommended = 1 };
enum AccessFlags : int { kAccessNone = 0, kAccessRead = 1, kAccessReadWrite = 3 };
inline constexpr unsigned short kUsageTilePool = 1;

// What a piece of physical memory is to be.
struct AllocationProperties {
  AllocationType type;
  HandleType requested_handle_types;
  Location location;
  void* win32_meta_data;
  struct {
    unsigned char compression_type;
    unsigned char gpu_direct_rdma_capable;
    unsigned short usage;
    unsigned char reserved[4];
  } flags;
};

// Who may do what with a mapped range.
struct AccessDescription {
  Location location;
  AccessFlags flags;
};

enum class PointerAttribute : int {
  context = 1,
  memory_type = 2,
  device_pointer = 3,
  host_pointer = 4,
  is_managed = 8,
  device_ordinal = 9,
  range_start = 11,
  range_size = 12,
  mapped = 13,
  access_flags = 16,
  mapping_size = 18,
  mapping_base = 19,
  memory_block_id = 20,
};
enum class MemoryType : unsigned { host = 1, device = 2, array = 3, unified = 4 };

// What a pool of the driver is to be.
struct PoolProperties {
  AllocationType type;
  HandleType handle_types;
  Location location;
  void* win32_security_attributes;
  std::size_t max_bytes;  // 0: as the driver likes
  unsigned short usage;
  unsigned char reserved[54];
};

// Of a pool of the driver: how much it keeps when a stream is waited for, and what it has (64 bits each).
enum class PoolAttribute : int {
  release_threshold = 4,
  reserved_mem_current = 5,
  reserved_mem_high = 6,
  used_mem_current = 7,
  used_mem_high = 8,
};

enum class CaptureStatus : int { none = 0, active = 1, invalidated = 2 };

// What the calling thread may do while streams are captured into graphs: with any other mode than relaxed a
// call that is unsafe then (one that makes memory, one that asks an event) is refused and spoils the capture.
enum class CaptureMode : int { global = 0, thread_local_only = 1, relaxed = 2 };

// Arrays: textures in an order of the device's own. Of a sparse one memory is put behind tiles of 64 KiB, and
// behind the mip tail, which holds the levels that are smaller than a tile.
enum class ArrayFormat : int {
  unsigned8 = 0x01,
  unsigned16 = 0x02,
  unsigned32 = 0x03,
  signed8 = 0x08,
  signed16 = 0x09,
  signed32 = 0x0a,
  float16 = 0x10,
  float32 = 0x20,
};
enum ArrayFlags : unsigned { kArrayLayered = 0x01, kArraySparse = 0x40, kArrayDeferredMapping = 0x80 };
struct ArrayDescription {
  std::size_t width, height, depth;  // elements; depth: layers of a layered array, 0: a 2D array
  ArrayFormat format;
  unsigned channels;  // 1, 2 or 4
  unsigned flags;
};

inline constexpr unsigned kSingleMipTail = 1;  // SparseProperties::flags: one tail for all layers
struct SparseProperties {
  struct {
    unsigned width, height, depth;  // elements of a tile
  } tile;
  unsigned tail_first_level;
  unsigned long long tail_bytes;  // of a layer, or of all with kSingleMipTail
  unsigned flags;
  unsigned reserved[4];
};

enum class ResourceType : int { array = 0, mipmapped_array = 1 };
enum class SubresourceType : int { sparse_level = 0, mip_tail = 1 };
enum class MemoryOperation : int { map = 1, unmap = 2 };
enum class MemoryHandleType : int { generic = 0 };
// Puts a part of a tile pool behind a part of a sparse array, or takes what is there away.
struct ArrayMapInfo {
  ResourceType resource_type;
  union {
    MipmappedArray mipmap;
    Array array;
  } resource;
  SubresourceType subresource_type;
  union {
    struct {
      unsigned level, layer;
      unsigned x, y, z;               // elements; multiples of the tile
      unsigned width, height, depth;  // elements; multiples of the tile
    } level;
    struct {
      unsigned layer;
      unsigned long long offset_bytes, size_bytes;  // in the tail; multiples of a tile's bytes
    } tail;
  } part;
  MemoryOperation operation;
  MemoryHandleType handle_type;
  MemoryHandle handle;              // of a tile pool; 0 to unmap
  unsigned long long offset_bytes;  // in the tile pool; a multiple of a tile's bytes
  unsigned device_mask;             // one bit, that of the stream's device
  unsigned flags;
  unsigned reserved[2];
};

// One side of a copy of boxes: rows of bytes in linear memory, or elements of an array.
struct Copy3DSide {
  std::size_t x_bytes, y, z;  // where it starts
  std::size_t level;          // must be 0: a level is an array of its own
  MemoryType type;
  const void* host;
  DevicePointer device;
  Array array;
  void* reserved;
  std::size_t pitch_bytes, height;  // of linear memory: from row to row, rows from slice to slice
};
struct Copy3D {
  Copy3DSide from, to;
  std::size_t width_bytes, height, depth;
};

enum WriteValueFlags : unsigned { kWriteValueDefault = 0, kWriteValueNoMemoryBarrier = 1 };

enum class SymbolStatus : int { found = 0, not_found = 1, version_not_sufficient = 2 };

// The driver's name of a result without its prefix ("INVALID_VALUE"), or "(unnamed)".
[[nodiscard]] const char* name_of(Result result) noexcept;

}  // namespace glebe::os::cuda
