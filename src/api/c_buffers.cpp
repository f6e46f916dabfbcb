// The C interface of include/glebe/paging.h, buffers and tickets: checks pointers, converts types. No state.
#include <glebe/paging.h>

#include <cstring>

#include "src/api/paging_handles.h"

namespace glebe::api {
namespace {

// NULL is the defaults; false: a wrong structure.
bool convert(const glebe_buffer_options* from, pg::BufferOptions* to, pg::BufferCodec* codec) noexcept {
  if (from == nullptr) return true;
  if (from->struct_bytes < sizeof(glebe_buffer_options) || from->usage > glebe_usage_fixed) return false;
  if (from->name != nullptr) {
    to->name = from->name;
    if (to->name.empty()) return false;
  }
  to->usage = static_cast<pg::Usage>(from->usage);
  to->tag = from->tag;
  to->type_id = from->type_id;
  if (from->codec != nullptr) {
    if (from->codec->encode == nullptr || from->codec->decode == nullptr) return false;
    *codec = {from->codec->encode, from->codec->decode, from->codec->context};
    to->codec = codec;
  }
  return true;
}

bool is_operation(glebe_operation operation) noexcept {
  return operation >= glebe_page && operation <= glebe_discard;
}
bool is_access(glebe_access access) noexcept { return access == glebe_read || access == glebe_write; }
pg::Access access_of(glebe_access access) noexcept {
  return access == glebe_write ? pg::Access::write : pg::Access::read;
}

glebe_result with_error(pg::Result result, const pg::RangeError& from, glebe_range_error* to) noexcept {
  if (to != nullptr) {
    *to = {static_cast<std::uint32_t>(from.problem), from.offset_bytes, from.size_bytes, from.limit_bytes};
  }
  return to_c(result);
}

// A completion of ours that calls one of C.
pg::Completion bridge(const glebe_completion& from) noexcept {
  pg::Completion result;
  result.context = from.context;
  result.function = reinterpret_cast<void (*)()>(from.done);
  result.tell = [](const pg::Completion& self, pg::Result told) {
    reinterpret_cast<void (*)(void*, glebe_result)>(self.function)(self.context, to_c(told));
  };
  return result;
}

// The two directions of copy_range().
struct CopyOut {
  static constexpr pg::Access kAccess = pg::Access::read;
  void operator()(const std::byte* data, std::size_t done, std::size_t count) const noexcept {
    std::memcpy(to + done, data, count);
  }
  std::byte* to;
};
struct CopyIn {
  static constexpr pg::Access kAccess = pg::Access::write;
  void operator()(std::byte* data, std::size_t done, std::size_t count) const noexcept {
    std::memcpy(data, from + done, count);
  }
  const std::byte* from;
};

// Pins one extent after the other and copies between it and the caller's bytes. Size 0 copies nothing.
template <typename Copy>
glebe_result copy_range(glebe_pager* pager, glebe_buffer buffer, const pg::ByteRange& whole,
                        const Copy& copy) noexcept {
  pg::BufferPager& own = pager_of(pager);
  const std::size_t extent_bytes = own.extent_bytes();
  for (std::size_t done = 0; done < whole.size_bytes;) {
    const std::size_t at = whole.offset_bytes + done;
    const std::size_t in_extent = extent_bytes - (at & (extent_bytes - 1));
    const std::size_t left = whole.size_bytes - done;
    const pg::ByteRange range{at, left < in_extent ? left : in_extent};
    const pg::PinnedRange pinned = own.pin(buffer, range, Copy::kAccess);
    if (pinned.result != pg::Result::ok) return to_c(pinned.result);
    copy(pinned.data, done, range.size_bytes);
    if (const pg::Result result = own.unpin(buffer, range, Copy::kAccess); result != pg::Result::ok) {
      return to_c(result);
    }
    done += range.size_bytes;
  }
  return glebe_ok;
}

// Whether [offset, offset + size) lies in the buffer: a copy refuses all of it or none.
glebe_result check_range(glebe_pager* pager, glebe_buffer buffer, std::size_t offset,
                         std::size_t size) noexcept {
  std::size_t buffer_bytes = 0;
  if (const pg::Result result = pager_of(pager).size_of(buffer, &buffer_bytes); result != pg::Result::ok) {
    return to_c(result);
  }
  return offset <= buffer_bytes && size <= buffer_bytes - offset ? glebe_ok : glebe_bad_argument;
}

}  // namespace
}  // namespace glebe::api

using namespace glebe::api;

extern "C" {

// The numbers of parameters are those of the published interface.
// NOLINTBEGIN(readability-function-size)

glebe_result glebe_buffer_open(glebe_pager* pager, size_t size, const glebe_buffer_options* options,
                               glebe_buffer* buffer, int* is_new) {
  pg::BufferOptions converted;
  pg::BufferCodec codec{};
  if (pager == nullptr || buffer == nullptr || !convert(options, &converted, &codec))
    return glebe_bad_argument;
  bool made = false;
  const pg::Result result = pager_of(pager).open_or_create(size, converted, buffer, &made);
  if (result == pg::Result::ok && is_new != nullptr) *is_new = made ? 1 : 0;
  return to_c(result);
}

glebe_result glebe_buffer_new(glebe_pager* pager, size_t size, const glebe_buffer_options* options,
                              glebe_buffer* buffer) {
  pg::BufferOptions converted;
  pg::BufferCodec codec{};
  if (pager == nullptr || buffer == nullptr || !convert(options, &converted, &codec))
    return glebe_bad_argument;
  return to_c(pager_of(pager).create(size, converted, buffer));
}

glebe_result glebe_buffer_find(glebe_pager* pager, const char* name, glebe_buffer* buffer) {
  if (pager == nullptr || name == nullptr || buffer == nullptr) return glebe_bad_argument;
  return to_c(pager_of(pager).find(name, buffer));
}

glebe_result glebe_buffer_remove_name(glebe_pager* pager, const char* name) {
  return pager == nullptr || name == nullptr ? glebe_bad_argument : to_c(pager_of(pager).remove_name(name));
}

glebe_result glebe_buffer_close(glebe_pager* pager, glebe_buffer buffer) {
  return pager == nullptr ? glebe_bad_argument : to_c(pager_of(pager).close_buffer(buffer));
}

glebe_result glebe_buffer_pin(glebe_pager* pager, glebe_buffer buffer, size_t offset, size_t size,
                              glebe_access access, void** data) {
  if (pager == nullptr || data == nullptr || !is_access(access)) return glebe_bad_argument;
  const pg::PinnedRange pinned = pager_of(pager).pin(buffer, {offset, size}, access_of(access));
  if (pinned.result == pg::Result::ok) *data = pinned.data;
  return to_c(pinned.result);
}

glebe_result glebe_buffer_unpin(glebe_pager* pager, glebe_buffer buffer, size_t offset, size_t size,
                                glebe_access access) {
  if (pager == nullptr || !is_access(access)) return glebe_bad_argument;
  return to_c(pager_of(pager).unpin(buffer, {offset, size}, access_of(access)));
}

glebe_result glebe_buffer_pin_device(glebe_pager* pager, glebe_buffer buffer, size_t offset, size_t size,
                                     glebe_access access) {
  if (pager == nullptr || !is_access(access)) return glebe_bad_argument;
  return to_c(pager_of(pager).pin_device(buffer, {offset, size}, access_of(access)));
}

glebe_result glebe_buffer_unpin_device(glebe_pager* pager, glebe_buffer buffer, size_t offset, size_t size,
                                       glebe_access access) {
  if (pager == nullptr || !is_access(access)) return glebe_bad_argument;
  return to_c(pager_of(pager).unpin_device(buffer, {offset, size}, access_of(access)));
}

glebe_result glebe_buffer_device_address(glebe_pager* pager, glebe_buffer buffer, size_t offset,
                                         uint64_t* address) {
  if (pager == nullptr || address == nullptr) return glebe_bad_argument;
  return to_c(pager_of(pager).device_address(buffer, offset, address));
}

glebe_result glebe_buffer_read(glebe_pager* pager, glebe_buffer buffer, size_t offset, void* to,
                               size_t size) {
  if (pager == nullptr || (to == nullptr && size != 0)) return glebe_bad_argument;
  if (const glebe_result result = check_range(pager, buffer, offset, size); result != glebe_ok) return result;
  return copy_range(pager, buffer, {offset, size}, CopyOut{static_cast<std::byte*>(to)});
}

glebe_result glebe_buffer_write(glebe_pager* pager, glebe_buffer buffer, size_t offset, const void* from,
                                size_t size) {
  if (pager == nullptr || (from == nullptr && size != 0)) return glebe_bad_argument;
  if (const glebe_result result = check_range(pager, buffer, offset, size); result != glebe_ok) return result;
  return copy_range(pager, buffer, {offset, size}, CopyIn{static_cast<const std::byte*>(from)});
}

glebe_result glebe_buffer_fill(glebe_pager* pager, glebe_buffer buffer, size_t offset, size_t size,
                               const void* element, size_t element_size, glebe_range_error* error) {
  if (pager == nullptr || element == nullptr) return glebe_bad_argument;
  pg::RangeError problem;
  const pg::Result result = pager_of(pager).fill(
      buffer, {offset, size}, {static_cast<const std::byte*>(element), element_size}, &problem);
  return with_error(result, problem, error);
}

glebe_result glebe_buffer_clear(glebe_pager* pager, glebe_buffer buffer, size_t offset, size_t size,
                                glebe_range_error* error) {
  static constexpr std::byte kZero[1] = {};
  if (pager == nullptr) return glebe_bad_argument;
  pg::RangeError problem;
  const pg::Result result = pager_of(pager).fill(buffer, {offset, size}, kZero, &problem);
  return with_error(result, problem, error);
}

glebe_result glebe_buffer_copy(glebe_pager* pager, const glebe_copy_ranges* what, glebe_range_error* error) {
  if (pager == nullptr || what == nullptr) return glebe_bad_argument;
  pg::RangeError problem;
  const pg::Result result =
      pager_of(pager).copy({what->from, what->to, what->from_offset, what->to_offset, what->size}, &problem);
  return with_error(result, problem, error);
}

size_t glebe_range_error_text(const glebe_range_error* error, char* buffer, size_t size) {
  if (buffer == nullptr || size == 0) return 0;
  glebe::Text text({buffer, size});
  if (error != nullptr && error->problem <= glebe_range_not_whole_elements) {
    pg::RangeError{static_cast<pg::RangeProblem>(error->problem), error->offset, error->size, error->limit}
        .describe(text);
  }
  return text.size();
}

glebe_result glebe_buffer_resize(glebe_pager* pager, glebe_buffer buffer, size_t size) {
  return pager == nullptr ? glebe_bad_argument : to_c(pager_of(pager).resize(buffer, size));
}

glebe_result glebe_buffer_move(glebe_pager* pager, glebe_buffer buffer, size_t offset, size_t size,
                               glebe_operation operation, glebe_tier tier) {
  if (pager == nullptr || !is_operation(operation)) return glebe_bad_argument;
  return to_c(pager_of(pager).move(buffer, {offset, size}, static_cast<pg::Operation>(operation),
                                   static_cast<pg::Tier>(tier)));
}

glebe_result glebe_buffer_move_many(glebe_pager* pager, const glebe_buffer* buffers, size_t count,
                                    glebe_operation operation, glebe_tier tier) {
  if (pager == nullptr || (buffers == nullptr && count != 0) || !is_operation(operation)) {
    return glebe_bad_argument;
  }
  return to_c(pager_of(pager).move_many({buffers, count}, static_cast<pg::Operation>(operation),
                                        static_cast<pg::Tier>(tier)));
}

glebe_result glebe_buffer_move_async(glebe_pager* pager, glebe_buffer buffer, size_t offset, size_t size,
                                     glebe_operation operation, glebe_tier tier, glebe_ticket* ticket) {
  if (pager == nullptr || ticket == nullptr || !is_operation(operation)) return glebe_bad_argument;
  const pg::AsyncMove what(static_cast<pg::Operation>(operation), static_cast<pg::Tier>(tier));
  return to_c(pager_of(pager).move_async(buffer, {offset, size}, what, ticket));
}

glebe_result glebe_buffer_move_notify(glebe_pager* pager, glebe_buffer buffer, size_t offset, size_t size,
                                      glebe_operation operation, glebe_tier tier,
                                      const glebe_completion* completion, glebe_ticket* ticket) {
  if (pager == nullptr || completion == nullptr || completion->done == nullptr || !is_operation(operation)) {
    return glebe_bad_argument;
  }
  const pg::AsyncMove what(static_cast<pg::Operation>(operation), static_cast<pg::Tier>(tier),
                           bridge(*completion));
  return to_c(pager_of(pager).move_async(buffer, {offset, size}, what, ticket));
}

// NOLINTEND(readability-function-size)

glebe_result glebe_buffer_prefetch(glebe_pager* pager, glebe_buffer buffer, size_t offset, size_t size) {
  return pager == nullptr ? glebe_bad_argument : to_c(pager_of(pager).prefetch(buffer, {offset, size}));
}

glebe_result glebe_ticket_wait(glebe_pager* pager, glebe_ticket ticket) {
  return pager == nullptr ? glebe_bad_argument : to_c(pager_of(pager).wait(ticket));
}

int glebe_ticket_is_done(glebe_pager* pager, glebe_ticket ticket) {
  return pager == nullptr || pager_of(pager).is_done(ticket) ? 1 : 0;
}

glebe_result glebe_ticket_cancel(glebe_pager* pager, glebe_ticket ticket) {
  return pager == nullptr ? glebe_bad_argument : to_c(pager_of(pager).cancel(ticket));
}

void glebe_ticket_release(glebe_pager* pager, glebe_ticket ticket) {
  if (pager != nullptr) pager_of(pager).release_ticket(ticket);
}

glebe_result glebe_buffer_get_info(glebe_pager* pager, glebe_buffer buffer, glebe_buffer_info* info) {
  if (pager == nullptr || info == nullptr) return glebe_bad_argument;
  pg::BufferInfo from;
  const pg::Result result = pager_of(pager).info(buffer, &from);
  if (result != pg::Result::ok) return to_c(result);
  *info = {};
  info->address = from.address;
  info->size = from.size_bytes;
  info->extents = from.extents;
  for (unsigned i = 0; i < pg::kTiers; ++i) info->valid_bytes[i] = from.valid_bytes[i];
  info->dirty_bytes = from.dirty_bytes;
  info->unbacked_bytes = from.unbacked_bytes;
  info->pinned_bytes = from.pinned_bytes;
  info->usage = static_cast<uint32_t>(from.usage);
  info->age = from.age;
  info->type_id = from.type_id;
  return glebe_ok;
}

}  // extern "C"
