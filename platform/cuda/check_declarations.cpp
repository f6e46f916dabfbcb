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
struct Theirs<Array> {
  using Type = CUarray;
};
template <>
struct Theirs<MipmappedArray> {
  using Type = CUmipmappedArray;
};
template <>
struct Theirs<ArrayDescription> {
  using Type = CUDA_ARRAY3D_DESCRIPTOR;
};
template <>
struct Theirs<SparseProperties> {
  using Type = CUDA_ARRAY_SPARSE_PROPERTIES;
};
template <>
struct Theirs<ArrayMapInfo> {
  using Type = CUarrayMapInfo;
};
template <>
struct Theirs<Copy3D> {
  using Type = CUDA_MEMCPY3D;
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
#define SAME_PLACE(ours, field, theirs, their_field) \
  static_assert(offsetof(ours, field) == offsetof(theirs, their_field), #their_field)
SAME_PLACE(ArrayDescription, width, CUDA_ARRAY3D_DESCRIPTOR, Width);
SAME_PLACE(ArrayDescription, height, CUDA_ARRAY3D_DESCRIPTOR, Height);
SAME_PLACE(ArrayDescription, depth, CUDA_ARRAY3D_DESCRIPTOR, Depth);
SAME_PLACE(ArrayDescription, format, CUDA_ARRAY3D_DESCRIPTOR, Format);
SAME_PLACE(ArrayDescription, channels, CUDA_ARRAY3D_DESCRIPTOR, NumChannels);
SAME_PLACE(ArrayDescription, flags, CUDA_ARRAY3D_DESCRIPTOR, Flags);
SAME_PLACE(SparseProperties, tile.width, CUDA_ARRAY_SPARSE_PROPERTIES, tileExtent.width);
SAME_PLACE(SparseProperties, tile.height, CUDA_ARRAY_SPARSE_PROPERTIES, tileExtent.height);
SAME_PLACE(SparseProperties, tile.depth, CUDA_ARRAY_SPARSE_PROPERTIES, tileExtent.depth);
SAME_PLACE(SparseProperties, tail_first_level, CUDA_ARRAY_SPARSE_PROPERTIES, miptailFirstLevel);
SAME_PLACE(SparseProperties, tail_bytes, CUDA_ARRAY_SPARSE_PROPERTIES, miptailSize);
SAME_PLACE(SparseProperties, flags, CUDA_ARRAY_SPARSE_PROPERTIES, flags);
SAME_PLACE(SparseProperties, reserved, CUDA_ARRAY_SPARSE_PROPERTIES, reserved);
SAME_PLACE(ArrayMapInfo, resource_type, CUarrayMapInfo, resourceType);
SAME_PLACE(ArrayMapInfo, resource.mipmap, CUarrayMapInfo, resource.mipmap);
SAME_PLACE(ArrayMapInfo, resource.array, CUarrayMapInfo, resource.array);
SAME_PLACE(ArrayMapInfo, subresource_type, CUarrayMapInfo, subresourceType);
SAME_PLACE(ArrayMapInfo, part.level.level, CUarrayMapInfo, subresource.sparseLevel.level);
SAME_PLACE(ArrayMapInfo, part.level.layer, CUarrayMapInfo, subresource.sparseLevel.layer);
SAME_PLACE(ArrayMapInfo, part.level.x, CUarrayMapInfo, subresource.sparseLevel.offsetX);
SAME_PLACE(ArrayMapInfo, part.level.y, CUarrayMapInfo, subresource.sparseLevel.offsetY);
SAME_PLACE(ArrayMapInfo, part.level.z, CUarrayMapInfo, subresource.sparseLevel.offsetZ);
SAME_PLACE(ArrayMapInfo, part.level.width, CUarrayMapInfo, subresource.sparseLevel.extentWidth);
SAME_PLACE(ArrayMapInfo, part.level.height, CUarrayMapInfo, subresource.sparseLevel.extentHeight);
SAME_PLACE(ArrayMapInfo, part.level.depth, CUarrayMapInfo, subresource.sparseLevel.extentDepth);
SAME_PLACE(ArrayMapInfo, part.tail.layer, CUarrayMapInfo, subresource.miptail.layer);
SAME_PLACE(ArrayMapInfo, part.tail.offset_bytes, CUarrayMapInfo, subresource.miptail.offset);
SAME_PLACE(ArrayMapInfo, part.tail.size_bytes, CUarrayMapInfo, subresource.miptail.size);
SAME_PLACE(ArrayMapInfo, operation, CUarrayMapInfo, memOperationType);
SAME_PLACE(ArrayMapInfo, handle_type, CUarrayMapInfo, memHandleType);
SAME_PLACE(ArrayMapInfo, handle, CUarrayMapInfo, memHandle.memHandle);
SAME_PLACE(ArrayMapInfo, offset_bytes, CUarrayMapInfo, offset);
SAME_PLACE(ArrayMapInfo, device_mask, CUarrayMapInfo, deviceBitMask);
SAME_PLACE(ArrayMapInfo, flags, CUarrayMapInfo, flags);
SAME_PLACE(ArrayMapInfo, reserved, CUarrayMapInfo, reserved);
SAME_PLACE(Copy3D, from.x_bytes, CUDA_MEMCPY3D, srcXInBytes);
SAME_PLACE(Copy3D, from.y, CUDA_MEMCPY3D, srcY);
SAME_PLACE(Copy3D, from.z, CUDA_MEMCPY3D, srcZ);
SAME_PLACE(Copy3D, from.level, CUDA_MEMCPY3D, srcLOD);
SAME_PLACE(Copy3D, from.type, CUDA_MEMCPY3D, srcMemoryType);
SAME_PLACE(Copy3D, from.host, CUDA_MEMCPY3D, srcHost);
SAME_PLACE(Copy3D, from.device, CUDA_MEMCPY3D, srcDevice);
SAME_PLACE(Copy3D, from.array, CUDA_MEMCPY3D, srcArray);
SAME_PLACE(Copy3D, from.pitch_bytes, CUDA_MEMCPY3D, srcPitch);
SAME_PLACE(Copy3D, from.height, CUDA_MEMCPY3D, srcHeight);
SAME_PLACE(Copy3D, to.x_bytes, CUDA_MEMCPY3D, dstXInBytes);
SAME_PLACE(Copy3D, to.y, CUDA_MEMCPY3D, dstY);
SAME_PLACE(Copy3D, to.z, CUDA_MEMCPY3D, dstZ);
SAME_PLACE(Copy3D, to.level, CUDA_MEMCPY3D, dstLOD);
SAME_PLACE(Copy3D, to.type, CUDA_MEMCPY3D, dstMemoryType);
SAME_PLACE(Copy3D, to.host, CUDA_MEMCPY3D, dstHost);
SAME_PLACE(Copy3D, to.device, CUDA_MEMCPY3D, dstDevice);
SAME_PLACE(Copy3D, to.array, CUDA_MEMCPY3D, dstArray);
SAME_PLACE(Copy3D, to.pitch_bytes, CUDA_MEMCPY3D, dstPitch);
SAME_PLACE(Copy3D, to.height, CUDA_MEMCPY3D, dstHeight);
SAME_PLACE(Copy3D, from.reserved, CUDA_MEMCPY3D, reserved0);
SAME_PLACE(Copy3D, to.reserved, CUDA_MEMCPY3D, reserved1);
SAME_PLACE(Copy3D, width_bytes, CUDA_MEMCPY3D, WidthInBytes);
SAME_PLACE(Copy3D, height, CUDA_MEMCPY3D, Height);
SAME_PLACE(Copy3D, depth, CUDA_MEMCPY3D, Depth);
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
SAME_ATTRIBUTE(deferred_mapping_cuda_array_supported, DEFERRED_MAPPING_CUDA_ARRAY_SUPPORTED);
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
SAME(ArrayFormat::unsigned8, CU_AD_FORMAT_UNSIGNED_INT8);
SAME(ArrayFormat::unsigned16, CU_AD_FORMAT_UNSIGNED_INT16);
SAME(ArrayFormat::unsigned32, CU_AD_FORMAT_UNSIGNED_INT32);
SAME(ArrayFormat::signed8, CU_AD_FORMAT_SIGNED_INT8);
SAME(ArrayFormat::signed16, CU_AD_FORMAT_SIGNED_INT16);
SAME(ArrayFormat::signed32, CU_AD_FORMAT_SIGNED_INT32);
SAME(ArrayFormat::float16, CU_AD_FORMAT_HALF);
SAME(ArrayFormat::float32, CU_AD_FORMAT_FLOAT);
SAME(kArrayLayered, CUDA_ARRAY3D_LAYERED);
SAME(kArraySparse, CUDA_ARRAY3D_SPARSE);
SAME(kArrayDeferredMapping, CUDA_ARRAY3D_DEFERRED_MAPPING);
SAME(kSingleMipTail, CU_ARRAY_SPARSE_PROPERTIES_SINGLE_MIPTAIL);
SAME(ResourceType::array, CU_RESOURCE_TYPE_ARRAY);
SAME(ResourceType::mipmapped_array, CU_RESOURCE_TYPE_MIPMAPPED_ARRAY);
SAME(SubresourceType::sparse_level, CU_ARRAY_SPARSE_SUBRESOURCE_TYPE_SPARSE_LEVEL);
SAME(SubresourceType::mip_tail, CU_ARRAY_SPARSE_SUBRESOURCE_TYPE_MIPTAIL);
SAME(MemoryOperation::map, CU_MEM_OPERATION_TYPE_MAP);
SAME(MemoryOperation::unmap, CU_MEM_OPERATION_TYPE_UNMAP);
SAME(MemoryHandleType::generic, CU_MEM_HANDLE_TYPE_GENERIC);
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
