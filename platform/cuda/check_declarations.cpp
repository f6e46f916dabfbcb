// Compares our declarations of the driver's interface with those of the toolkit, at build time. It is
// compiled where cuda.h is found and has no code. A signature is compared with the function pointer type of
// the version that the loader asks for, argument by argument: the same kind of thing, the same size, and for
// structures and handles the one that belongs to ours.
#include <cuda.h>
#include <cudaTypedefs.h>

#include <cstddef>
#include <type_traits>

#include "platform/cuda/driver.h"

namespace glebe::os::cuda {
namespace {

// Which of our structures and handles stands for which of theirs.
template <class Ours>
struct Theirs {};
template <>
struct Theirs<Context> {
  using Type = CUcontext;
};
template <>
struct Theirs<Stream> {
  using Type = CUstream;
};
template <>
struct Theirs<Event> {
  using Type = CUevent;
};
template <>
struct Theirs<Module> {
  using Type = CUmodule;
};
template <>
struct Theirs<Function> {
  using Type = CUfunction;
};
template <>
struct Theirs<MemoryPool> {
  using Type = CUmemoryPool;
};
template <>
struct Theirs<PoolProperties> {
  using Type = CUmemPoolProps;
};
template <>
struct Theirs<PoolAttribute> {
  using Type = CUmemPool_attribute;
};
template <>
struct Theirs<HostFunction> {
  using Type = CUhostFn;
};
template <>
struct Theirs<Location> {
  using Type = CUmemLocation;
};
template <>
struct Theirs<AllocationProperties> {
  using Type = CUmemAllocationProp;
};
template <>
struct Theirs<AccessDescription> {
  using Type = CUmemAccessDesc;
};
template <>
struct Theirs<DeviceAttribute> {
  using Type = CUdevice_attribute;
};
template <>
struct Theirs<Granularity> {
  using Type = CUmemAllocationGranularity_flags;
};
template <>
struct Theirs<HandleType> {
  using Type = CUmemAllocationHandleType;
};
template <>
struct Theirs<PointerAttribute> {
  using Type = CUpointer_attribute;
};
template <>
struct Theirs<CaptureStatus> {
  using Type = CUstreamCaptureStatus;
};
template <>
struct Theirs<CaptureMode> {
  using Type = CUstreamCaptureMode;
};
template <>
struct Theirs<Result> {
  using Type = CUresult;
};

template <class Ours, class Other>
constexpr bool is_same_kind() {
  if constexpr (requires { typename Theirs<Ours>::Type; }) {
    return std::is_same_v<typename Theirs<Ours>::Type, Other> && sizeof(Ours) == sizeof(Other) &&
           alignof(Ours) == alignof(Other);
  } else if constexpr (std::is_pointer_v<Ours> && std::is_pointer_v<Other>) {
    using A = std::remove_pointer_t<Ours>;
    using B = std::remove_pointer_t<Other>;
    return std::is_const_v<A> == std::is_const_v<B> &&
           is_same_kind<std::remove_const_t<A>, std::remove_const_t<B>>();
  } else if constexpr (std::is_integral_v<Ours> && std::is_integral_v<Other>) {
    // unsigned long and unsigned long long are two types of one size.
    return sizeof(Ours) == sizeof(Other) && std::is_signed_v<Ours> == std::is_signed_v<Other>;
  } else {
    return std::is_same_v<Ours, Other>;
  }
}

template <class Ours, class Other>
struct Signature;
template <class... A, class... B>
struct Signature<Result(A...), CUresult (*)(B...)> {
  static constexpr bool is_same() {
    if constexpr (sizeof...(A) == sizeof...(B)) {
      return (is_same_kind<A, B>() && ... && true);
    } else {
      return false;
    }
  }
};

#define GPU_CALL(name, symbol, version, ...) \
  static_assert(Signature<__VA_ARGS__, PFN_##symbol##_v##version>::is_same(), #symbol);
#include "platform/cuda/driver.def"
#undef GPU_CALL

// Structures, field by field.
static_assert(offsetof(Location, id) == offsetof(CUmemLocation, id));
static_assert(offsetof(AccessDescription, flags) == offsetof(CUmemAccessDesc, flags));
using Properties = AllocationProperties;
static_assert(offsetof(Properties, requested_handle_types) ==
              offsetof(CUmemAllocationProp, requestedHandleTypes));
static_assert(offsetof(Properties, location) == offsetof(CUmemAllocationProp, location));
static_assert(offsetof(Properties, win32_meta_data) == offsetof(CUmemAllocationProp, win32HandleMetaData));
static_assert(offsetof(Properties, flags.compression_type) ==
              offsetof(CUmemAllocationProp, allocFlags.compressionType));
static_assert(offsetof(Properties, flags.gpu_direct_rdma_capable) ==
              offsetof(CUmemAllocationProp, allocFlags.gpuDirectRDMACapable));
static_assert(offsetof(Properties, flags.usage) == offsetof(CUmemAllocationProp, allocFlags.usage));
static_assert(offsetof(PoolProperties, handle_types) == offsetof(CUmemPoolProps, handleTypes));
static_assert(offsetof(PoolProperties, location) == offsetof(CUmemPoolProps, location));
static_assert(offsetof(PoolProperties, win32_security_attributes) ==
              offsetof(CUmemPoolProps, win32SecurityAttributes));
static_assert(offsetof(PoolProperties, max_bytes) == offsetof(CUmemPoolProps, maxSize));
static_assert(offsetof(PoolProperties, usage) == offsetof(CUmemPoolProps, usage));
static_assert(offsetof(PoolProperties, reserved) == offsetof(CUmemPoolProps, reserved));
static_assert(sizeof(SymbolStatus) == sizeof(CUdriverProcAddressQueryResult));

template <class Ours, class Other>
constexpr bool has_number(Ours ours, Other theirs) {
  return static_cast<long long>(ours) == static_cast<long long>(theirs);
}

#define SAME(ours, theirs) static_assert(has_number(ours, theirs), #theirs)
SAME(Result::success, CUDA_SUCCESS);
SAME(Result::invalid_value, CUDA_ERROR_INVALID_VALUE);
SAME(Result::out_of_memory, CUDA_ERROR_OUT_OF_MEMORY);
SAME(Result::not_initialized, CUDA_ERROR_NOT_INITIALIZED);
SAME(Result::deinitialized, CUDA_ERROR_DEINITIALIZED);
SAME(Result::stub_library, CUDA_ERROR_STUB_LIBRARY);
SAME(Result::device_unavailable, CUDA_ERROR_DEVICE_UNAVAILABLE);
SAME(Result::no_device, CUDA_ERROR_NO_DEVICE);
SAME(Result::invalid_device, CUDA_ERROR_INVALID_DEVICE);
SAME(Result::invalid_image, CUDA_ERROR_INVALID_IMAGE);
SAME(Result::invalid_context, CUDA_ERROR_INVALID_CONTEXT);
SAME(Result::operating_system, CUDA_ERROR_OPERATING_SYSTEM);
SAME(Result::invalid_handle, CUDA_ERROR_INVALID_HANDLE);
SAME(Result::illegal_state, CUDA_ERROR_ILLEGAL_STATE);
SAME(Result::not_found, CUDA_ERROR_NOT_FOUND);
SAME(Result::not_ready, CUDA_ERROR_NOT_READY);
SAME(Result::illegal_address, CUDA_ERROR_ILLEGAL_ADDRESS);
SAME(Result::host_memory_already_registered, CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
SAME(Result::host_memory_not_registered, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
SAME(Result::not_permitted, CUDA_ERROR_NOT_PERMITTED);
SAME(Result::not_supported, CUDA_ERROR_NOT_SUPPORTED);
SAME(Result::system_not_ready, CUDA_ERROR_SYSTEM_NOT_READY);
SAME(Result::stream_capture_unsupported, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
SAME(Result::unknown, CUDA_ERROR_UNKNOWN);

SAME(kStreamDefault, CU_STREAM_DEFAULT);
SAME(kStreamNonBlocking, CU_STREAM_NON_BLOCKING);
SAME(kEventDefault, CU_EVENT_DEFAULT);
SAME(kEventBlockingSync, CU_EVENT_BLOCKING_SYNC);
SAME(kEventDisableTiming, CU_EVENT_DISABLE_TIMING);
SAME(kHostPortable, CU_MEMHOSTALLOC_PORTABLE);
SAME(kHostDeviceMap, CU_MEMHOSTALLOC_DEVICEMAP);
SAME(kHostWriteCombined, CU_MEMHOSTALLOC_WRITECOMBINED);
SAME(kRegisterPortable, CU_MEMHOSTREGISTER_PORTABLE);
SAME(kRegisterDeviceMap, CU_MEMHOSTREGISTER_DEVICEMAP);
SAME(kRegisterIoMemory, CU_MEMHOSTREGISTER_IOMEMORY);
SAME(kRegisterReadOnly, CU_MEMHOSTREGISTER_READ_ONLY);

#define SAME_ATTRIBUTE(ours, theirs) SAME(DeviceAttribute::ours, CU_DEVICE_ATTRIBUTE_##theirs)
SAME_ATTRIBUTE(warp_size, WARP_SIZE);
SAME_ATTRIBUTE(compute_capability_major, COMPUTE_CAPABILITY_MAJOR);
SAME_ATTRIBUTE(compute_capability_minor, COMPUTE_CAPABILITY_MINOR);
SAME_ATTRIBUTE(concurrent_managed_access, CONCURRENT_MANAGED_ACCESS);
SAME_ATTRIBUTE(virtual_memory_management_supported, VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
SAME_ATTRIBUTE(handle_type_posix_file_descriptor_supported, HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
SAME_ATTRIBUTE(generic_compression_supported, GENERIC_COMPRESSION_SUPPORTED);
SAME_ATTRIBUTE(gpu_direct_rdma_with_cuda_vmm_supported, GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED);
SAME_ATTRIBUTE(sparse_cuda_array_supported, SPARSE_CUDA_ARRAY_SUPPORTED);
SAME_ATTRIBUTE(memory_pools_supported, MEMORY_POOLS_SUPPORTED);
SAME_ATTRIBUTE(can_use_64_bit_stream_mem_ops, CAN_USE_64_BIT_STREAM_MEM_OPS);
SAME_ATTRIBUTE(handle_type_fabric_supported, HANDLE_TYPE_FABRIC_SUPPORTED);
SAME_ATTRIBUTE(multicast_supported, MULTICAST_SUPPORTED);
SAME_ATTRIBUTE(host_numa_id, HOST_NUMA_ID);
SAME_ATTRIBUTE(host_numa_virtual_memory_management_supported, HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
SAME_ATTRIBUTE(host_virtual_memory_management_supported, HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);

SAME(LocationType::invalid, CU_MEM_LOCATION_TYPE_INVALID);
SAME(LocationType::device, CU_MEM_LOCATION_TYPE_DEVICE);
SAME(LocationType::host, CU_MEM_LOCATION_TYPE_HOST);
SAME(LocationType::host_numa, CU_MEM_LOCATION_TYPE_HOST_NUMA);
SAME(LocationType::host_numa_current, CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT);
SAME(AllocationType::invalid, CU_MEM_ALLOCATION_TYPE_INVALID);
SAME(AllocationType::pinned, CU_MEM_ALLOCATION_TYPE_PINNED);
SAME(AllocationType::managed, CU_MEM_ALLOCATION_TYPE_MANAGED);
SAME(HandleType::none, CU_MEM_HANDLE_TYPE_NONE);
SAME(HandleType::posix_file_descriptor, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
SAME(HandleType::win32, CU_MEM_HANDLE_TYPE_WIN32);
SAME(HandleType::win32_kmt, CU_MEM_HANDLE_TYPE_WIN32_KMT);
SAME(HandleType::fabric, CU_MEM_HANDLE_TYPE_FABRIC);
SAME(Granularity::minimum, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
SAME(Granularity::recommended, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
SAME(kAccessNone, CU_MEM_ACCESS_FLAGS_PROT_NONE);
SAME(kAccessRead, CU_MEM_ACCESS_FLAGS_PROT_READ);
SAME(kAccessReadWrite, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
SAME(kUsageTilePool, CU_MEM_CREATE_USAGE_TILE_POOL);
SAME(PoolAttribute::release_threshold, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD);
SAME(PoolAttribute::reserved_mem_current, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
SAME(PoolAttribute::reserved_mem_high, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH);
SAME(PoolAttribute::used_mem_current, CU_MEMPOOL_ATTR_USED_MEM_CURRENT);
SAME(PoolAttribute::used_mem_high, CU_MEMPOOL_ATTR_USED_MEM_HIGH);
SAME(CaptureStatus::none, CU_STREAM_CAPTURE_STATUS_NONE);
SAME(CaptureStatus::active, CU_STREAM_CAPTURE_STATUS_ACTIVE);
SAME(CaptureStatus::invalidated, CU_STREAM_CAPTURE_STATUS_INVALIDATED);
SAME(CaptureMode::global, CU_STREAM_CAPTURE_MODE_GLOBAL);
SAME(CaptureMode::thread_local_only, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
SAME(CaptureMode::relaxed, CU_STREAM_CAPTURE_MODE_RELAXED);
SAME(kWriteValueDefault, CU_STREAM_WRITE_VALUE_DEFAULT);
SAME(kWriteValueNoMemoryBarrier, CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER);
SAME(SymbolStatus::found, CU_GET_PROC_ADDRESS_SUCCESS);
SAME(SymbolStatus::not_found, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
SAME(SymbolStatus::version_not_sufficient, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);

#define SAME_POINTER(ours, theirs) SAME(PointerAttribute::ours, CU_POINTER_ATTRIBUTE_##theirs)
SAME_POINTER(context, CONTEXT);
SAME_POINTER(memory_type, MEMORY_TYPE);
SAME_POINTER(device_pointer, DEVICE_POINTER);
SAME_POINTER(host_pointer, HOST_POINTER);
SAME_POINTER(is_managed, IS_MANAGED);
SAME_POINTER(device_ordinal, DEVICE_ORDINAL);
SAME_POINTER(range_start, RANGE_START_ADDR);
SAME_POINTER(range_size, RANGE_SIZE);
SAME_POINTER(mapped, MAPPED);
SAME_POINTER(access_flags, ACCESS_FLAGS);
SAME_POINTER(mapping_size, MAPPING_SIZE);
SAME_POINTER(mapping_base, MAPPING_BASE_ADDR);
SAME_POINTER(memory_block_id, MEMORY_BLOCK_ID);
SAME(MemoryType::host, CU_MEMORYTYPE_HOST);
SAME(MemoryType::device, CU_MEMORYTYPE_DEVICE);
SAME(MemoryType::array, CU_MEMORYTYPE_ARRAY);
SAME(MemoryType::unified, CU_MEMORYTYPE_UNIFIED);

}  // namespace
}  // namespace glebe::os::cuda
