// Entries of the emulated driver: sparse arrays, memory behind their tiles, and copies of boxes; see arrays.h
// and machine.h. Where the documentation allows several answers, tests/gpu_contract.def says which one this
// is.
#include "platform/emulated_gpu/machine.h"

namespace glebe::os::emulated {

using cuda::Result;

// Memory for a sparse array is another call's; what it needs at once is a table.
Result Machine::make_array(const ArrayDescription* wanted, unsigned levels,
                           cuda::MipmappedArrayObject** made) noexcept {
  constexpr unsigned kFlags = cuda::kArraySparse | cuda::kArrayLayered;
  if (wanted == nullptr) return Result::invalid_value;
  if (!options_.has_sparse_arrays || (wanted->flags & ~kFlags) != 0) return Result::not_supported;
  if ((wanted->flags & cuda::kArraySparse) == 0) return Result::not_supported;
  cuda::MipmappedArrayObject* array = arrays_.take();
  if (array == nullptr) return Result::out_of_memory;
  array->is_mipmapped = levels != 0;
  const bool is_sound = lay_out(*array, *wanted, levels != 0 ? levels : 1);
  if (is_sound && open_tiles(*array)) {
    *made = array;
    return Result::success;
  }
  arrays_.give_back(array);
  return is_sound ? Result::out_of_memory : Result::invalid_value;
}

// Waits for the device first: that is our assumption.
Result Machine::end_array(cuda::MipmappedArrayObject* array) noexcept {
  const std::uint32_t generation = arrays_.generation_of(array);
  const Result result = queues_.synchronize_all();
  if (result != Result::success) return result;
  if (!arrays_.holds(array) || arrays_.generation_of(array) != generation) return Result::invalid_handle;
  close_tiles(*array, physical_);
  arrays_.give_back(array);
  return Result::success;
}

// All of them, when nothing is queued any more.
void Machine::end_arrays() noexcept {
  for (std::uint32_t i = 0; i < arrays_.used(); ++i) {
    cuda::MipmappedArrayObject* array = arrays_.find(i);
    if (array == nullptr) continue;
    close_tiles(*array, physical_);
    arrays_.give_back(array);
  }
}

cuda::ArrayObject* Machine::find_array(Array handle) noexcept {
  const auto wanted = reinterpret_cast<std::uintptr_t>(handle);
  for (std::uint32_t i = 0; i < arrays_.used(); ++i) {
    cuda::MipmappedArrayObject* array = arrays_.find(i);
    if (array == nullptr) continue;
    const std::uintptr_t offset = wanted - reinterpret_cast<std::uintptr_t>(array->level_arrays);
    if (offset < array->levels * sizeof(cuda::ArrayObject) && offset % sizeof(cuda::ArrayObject) == 0) {
      return handle;
    }
  }
  return nullptr;
}

cuda::MipmappedArrayObject* Machine::find_mipmapped(MipmappedArray handle) noexcept {
  return arrays_.holds(handle) && handle->is_mipmapped ? handle : nullptr;
}

Result Machine::array3d_create(Array* array, const ArrayDescription* description) noexcept {
  if (array == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  cuda::MipmappedArrayObject* made = nullptr;
  const Result result = make_array(description, 0, &made);
  if (result == Result::success) *array = &made->level_arrays[0];
  return result;
}

Result Machine::array_destroy(Array handle) noexcept {
  const Lock hold(lock_);
  const cuda::ArrayObject* array = find_array(handle);
  // A level belongs to its mipmapped array.
  if (array == nullptr || array->owner->is_mipmapped) return Result::invalid_handle;
  return end_array(array->owner);
}

Result Machine::mipmapped_array_create(MipmappedArray* array, const ArrayDescription* description,
                                       unsigned level_count) noexcept {
  if (array == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  return make_array(description, level_count != 0 ? level_count : 1, array);
}

Result Machine::mipmapped_array_destroy(MipmappedArray handle) noexcept {
  const Lock hold(lock_);
  cuda::MipmappedArrayObject* array = find_mipmapped(handle);
  return array != nullptr ? end_array(array) : Result::invalid_handle;
}

Result Machine::mipmapped_array_get_level(Array* level_array, MipmappedArray handle,
                                          unsigned level) noexcept {
  if (level_array == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  cuda::MipmappedArrayObject* array = find_mipmapped(handle);
  if (array == nullptr) return Result::invalid_handle;
  if (level >= array->levels) return Result::invalid_value;
  *level_array = &array->level_arrays[level];
  return Result::success;
}

namespace {

cuda::SparseProperties properties_of(const cuda::MipmappedArrayObject& array) noexcept {
  cuda::SparseProperties properties = {};
  properties.tile = {array.tile_width, array.tile_height, 1};
  properties.tail_first_level = array.tail_first_level;
  properties.tail_bytes = array.tail_bytes;
  return properties;
}

}  // namespace

Result Machine::array_get_sparse_properties(SparseProperties* properties, Array handle) noexcept {
  if (properties == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  const cuda::ArrayObject* array = find_array(handle);
  if (array == nullptr) return Result::invalid_handle;
  if (array->owner->is_mipmapped) return Result::invalid_value;
  *properties = properties_of(*array->owner);
  return Result::success;
}

Result Machine::mipmapped_array_get_sparse_properties(SparseProperties* properties,
                                                      MipmappedArray handle) noexcept {
  if (properties == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  const cuda::MipmappedArrayObject* array = find_mipmapped(handle);
  if (array == nullptr) return Result::invalid_handle;
  *properties = properties_of(*array);
  return Result::success;
}

// --- Memory behind tiles ---

// The array of a map info. A level of a mipmapped array is none.
Result Machine::find_target(const ArrayMapInfo& info, cuda::MipmappedArrayObject** array) noexcept {
  if (info.resource_type == cuda::ResourceType::mipmapped_array) {
    *array = find_mipmapped(info.resource.mipmap);
    return *array != nullptr ? Result::success : Result::invalid_handle;
  }
  if (info.resource_type != cuda::ResourceType::array) return Result::invalid_value;
  const cuda::ArrayObject* level = find_array(info.resource.array);
  if (level == nullptr) return Result::invalid_handle;
  *array = level->owner;
  return level->owner->is_mipmapped ? Result::invalid_value : Result::success;
}

namespace {

bool is_box(const cuda::MipmappedArrayObject& array, const cuda::ArrayMapInfo& info, ArrayMapping* mapping) {
  const auto& part = info.part.level;
  if (part.level >= array.tail_first_level || part.layer >= array.layers) return false;
  if (part.z != 0 || part.depth != 1 || part.width == 0 || part.height == 0) return false;
  if (part.x % array.tile_width != 0 || part.width % array.tile_width != 0) return false;
  if (part.y % array.tile_height != 0 || part.height % array.tile_height != 0) return false;
  // Whole tiles, also where the array ends within one.
  const std::size_t columns = divide_up(level_size(array.description.width, part.level), array.tile_width);
  const std::size_t rows = divide_up(level_size(array.description.height, part.level), array.tile_height);
  const std::size_t x = part.x / array.tile_width, y = part.y / array.tile_height;
  mapping->columns = part.width / array.tile_width;
  mapping->rows = part.height / array.tile_height;
  mapping->row_tiles = columns;
  mapping->first_tile = part.layer * array.layer_tiles + array.first_tile[part.level] + y * columns + x;
  return x + mapping->columns <= columns && y + mapping->rows <= rows;
}

bool is_part_of_tail(const cuda::MipmappedArrayObject& array, const cuda::ArrayMapInfo& info,
                     ArrayMapping* mapping) {
  const auto& part = info.part.tail;
  if (part.layer >= array.layers || part.size_bytes == 0) return false;
  if (part.offset_bytes % kArrayTileBytes != 0 || part.size_bytes % kArrayTileBytes != 0) return false;
  if (part.offset_bytes > array.tail_bytes || part.size_bytes > array.tail_bytes - part.offset_bytes) {
    return false;
  }
  mapping->rows = 1;
  mapping->columns = static_cast<std::uint32_t>(part.size_bytes / kArrayTileBytes);
  mapping->first_tile = part.layer * array.layer_tiles + array.first_tile[array.tail_first_level] +
                        part.offset_bytes / kArrayTileBytes;
  return true;
}

}  // namespace

Result Machine::check(const ArrayMapInfo& info, ArrayMapping* mapping) noexcept {
  *mapping = {};
  mapping->physical = &physical_;
  const Result wrong = find_target(info, &mapping->array);
  if (wrong != Result::success) return wrong;
  if (info.device_mask != 1 || info.flags != 0 || info.reserved[0] != 0 || info.reserved[1] != 0) {
    return Result::invalid_value;
  }
  const bool is_tail = info.subresource_type == cuda::SubresourceType::mip_tail;
  if (!is_tail && info.subresource_type != cuda::SubresourceType::sparse_level) return Result::invalid_value;
  const cuda::MipmappedArrayObject& array = *mapping->array;
  if (!(is_tail ? is_part_of_tail(array, info, mapping) : is_box(array, info, mapping))) {
    return Result::invalid_value;
  }
  if (info.operation == cuda::MemoryOperation::unmap) {
    return info.handle == 0 ? Result::success : Result::invalid_value;
  }
  if (info.operation != cuda::MemoryOperation::map) return Result::invalid_value;
  if (info.handle_type != cuda::MemoryHandleType::generic) return Result::invalid_value;
  Piece* piece = physical_.find(info.handle);
  if (piece == nullptr) return Result::invalid_handle;
  if ((piece->properties.flags.usage & cuda::kUsageTilePool) == 0) return Result::invalid_value;
  const std::uint64_t size_bytes = mapping->count() * std::uint64_t{kArrayTileBytes};
  if (info.offset_bytes % kArrayTileBytes != 0 || info.offset_bytes > piece->size_bytes ||
      size_bytes > piece->size_bytes - info.offset_bytes) {
    return Result::invalid_value;
  }
  std::byte* view = physical_.view(piece);
  if (view == nullptr) return Result::out_of_memory;
  mapping->piece = piece;
  mapping->from = view + info.offset_bytes;
  return Result::success;
}

// All of the list or nothing: every entry is looked at before the first one is queued.
Result Machine::mem_map_array_async(ArrayMapInfo* infos, unsigned count, Stream handle) noexcept {
  if (infos == nullptr || count == 0) return Result::invalid_value;
  const Lock hold(lock_);
  cuda::StreamObject* stream = queues_.find(handle);
  if (stream == nullptr) return Result::invalid_handle;
  ArrayMapping mapping;
  for (unsigned i = 0; i < count; ++i) {
    const Result wrong = check(infos[i], &mapping);
    if (wrong != Result::success) return wrong;
  }
  for (unsigned i = 0; i < count; ++i) {
    Operation* operation = queues_.make(Operation::Kind::map_array, stream);
    if (operation == nullptr) return queues_.error();
    CHECK(check(infos[i], &operation->mapping) == Result::success);
    Piece* piece = operation->mapping.piece;
    if (piece != nullptr) piece->mappings += operation->mapping.count();
    const Result result = queues_.queue(operation);
    if (result != Result::success) return result;
  }
  return Result::success;
}

// --- Copies of boxes ---

Result Machine::check(const Copy3D& copy, ArrayCopy* box, bool* is_pageable_side) noexcept {
  const cuda::Copy3DSide* sides[2] = {&copy.from, &copy.to};
  for (const cuda::Copy3DSide* side : sides) {
    if (side->level != 0 || side->reserved != nullptr) return Result::invalid_value;
  }
  box->is_to_array = copy.to.type == cuda::MemoryType::array;
  const cuda::Copy3DSide& in_array = box->is_to_array ? copy.to : copy.from;
  const cuda::Copy3DSide& linear = box->is_to_array ? copy.from : copy.to;
  // Between two arrays, or none: not emulated.
  if (in_array.type != cuda::MemoryType::array || linear.type == cuda::MemoryType::array) {
    return Result::not_supported;
  }
  const cuda::ArrayObject* level = find_array(in_array.array);
  if (level == nullptr) return Result::invalid_handle;
  const cuda::MipmappedArrayObject& array = *level->owner;
  const std::size_t width_bytes = level_size(array.description.width, level->level) * array.element_bytes;
  const std::size_t height = level_size(array.description.height, level->level);
  if (in_array.x_bytes % array.element_bytes != 0 || copy.width_bytes % array.element_bytes != 0) {
    return Result::invalid_value;
  }
  if (in_array.x_bytes > width_bytes || copy.width_bytes > width_bytes - in_array.x_bytes ||
      in_array.y > height || copy.height > height - in_array.y || in_array.z > array.layers ||
      copy.depth > array.layers - in_array.z) {
    return Result::invalid_value;
  }
  if (copy.width_bytes == 0 || copy.height == 0 || copy.depth == 0) {
    box->width_bytes = 0;
    return Result::success;
  }
  box->array = level->owner;
  box->level = level->level;
  box->x_bytes = in_array.x_bytes;
  box->y = in_array.y;
  box->layer = in_array.z;
  box->width_bytes = copy.width_bytes;
  box->height = copy.height;
  box->depth = copy.depth;
  return find_rows(linear, box, is_pageable_side);
}

// The side of a box that is rows of memory.
Result Machine::find_rows(const cuda::Copy3DSide& linear, ArrayCopy* box, bool* is_pageable_side) noexcept {
  const std::size_t rows = box->depth == 1 && linear.height == 0 ? box->height : linear.height;
  if (linear.pitch_bytes < linear.x_bytes + box->width_bytes || rows < box->height) {
    return Result::invalid_value;
  }
  box->pitch_bytes = linear.pitch_bytes;
  box->slice_bytes = rows * linear.pitch_bytes;
  const std::size_t first = linear.z * box->slice_bytes + linear.y * linear.pitch_bytes + linear.x_bytes;
  const std::size_t span =
      (box->depth - 1) * box->slice_bytes + (box->height - 1) * box->pitch_bytes + box->width_bytes;
  const bool is_host = linear.type == cuda::MemoryType::host;
  const bool is_device = linear.type == cuda::MemoryType::device;
  const DevicePointer base = is_host ? reinterpret_cast<std::uintptr_t>(linear.host) : linear.device;
  if (base == 0) return Result::invalid_value;
  box->linear = locate(base + first, span,
                       is_host     ? Operand::host
                       : is_device ? Operand::device
                                   : Operand::any,
                       box->is_to_array ? cuda::kAccessRead : cuda::kAccessReadWrite);
  *is_pageable_side = is_pageable(base + first);
  return box->linear != nullptr ? Result::success : Result::invalid_value;
}

Result Machine::queue_box(const Copy3D* copy, cuda::StreamObject* stream) noexcept {
  if (copy == nullptr) return Result::invalid_value;
  ArrayCopy box = {};
  bool must_wait = false;
  Result result = check(*copy, &box, &must_wait);
  if (result != Result::success || box.width_bytes == 0) return result;
  Operation* operation = queues_.make(Operation::Kind::copy_box, stream);
  if (operation == nullptr) return queues_.error();
  operation->box = box;
  result = queues_.queue(operation);
  // With pageable memory it returns when it is done.
  return result == Result::success && must_wait ? queues_.synchronize(stream) : result;
}

Result Machine::memcpy_3d(const Copy3D* copy) noexcept {
  const Lock hold(lock_);
  cuda::StreamObject* stream = queues_.find(nullptr);
  const Result result = queue_box(copy, stream);
  return result != Result::success ? result : queues_.synchronize(stream);
}

Result Machine::memcpy_3d_async(const Copy3D* copy, Stream handle) noexcept {
  const Lock hold(lock_);
  cuda::StreamObject* stream = queues_.find(handle);
  return stream != nullptr ? queue_box(copy, stream) : Result::invalid_handle;
}

}  // namespace glebe::os::emulated
