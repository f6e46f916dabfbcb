// The C interface of include/glebe/glebe.h over the layers: checks arguments, sets errno, converts types. No
// state.
#include <glebe/glebe.h>

#include <cerrno>
#include <cstring>

#include "platform/process.h"
#include "src/api/entry.h"
#include "src/api/options.h"
#include "src/base/bits.h"
#include "src/heap/misuse.h"
#include "src/observe/observe.h"

namespace glebe::api {
namespace {

// A handle of the C interface is a heap of ours seen through an opaque type.
heap::Heap* heap_of_handle(glebe_heap* handle) noexcept { return reinterpret_cast<heap::Heap*>(handle); }
glebe_heap* handle_of_heap(heap::Heap* heap) noexcept { return reinterpret_cast<glebe_heap*>(heap); }

// The live first-class heap that a handle names, or nullptr after a report.
heap::Heap* checked_heap(glebe_heap* handle) noexcept {
  ensure_configured();
  heap::Heap* heap = heap_of_handle(handle);
  if (heap != nullptr && heap::is_first_class(heap)) [[likely]] return heap;
  heap::report_misuse(heap::Misuse::bad_heap, handle, 0);
  return nullptr;
}

void* allocate_from_heap(glebe_heap* handle, std::size_t size_bytes, std::size_t align_bytes) noexcept {
  heap::Heap* heap = checked_heap(handle);
  if (heap == nullptr) {
    errno = EINVAL;
    return nullptr;
  }
  const bool is_possible = size_bytes <= kSizeMax && align_bytes <= kSizeMax - size_bytes;
  void* block = is_possible ? heap::allocate_from(heap, size_bytes, align_bytes) : nullptr;
  return block != nullptr ? block : out_of_memory();
}

// Copies what fits into the caller's buffer and counts the rest.
struct JsonBuffer {
  char* data;
  std::size_t capacity;
  std::size_t length = 0;
};
void append_to_buffer(void* context, std::string_view text) noexcept {
  JsonBuffer& buffer = *static_cast<JsonBuffer*>(context);
  if (buffer.length < buffer.capacity) {
    const std::size_t room = buffer.capacity - buffer.length;
    std::memcpy(buffer.data + buffer.length, text.data(), text.size() < room ? text.size() : room);
  }
  buffer.length += text.size();
}

// Gathers lines, so that the report takes few system calls and lines of several processes mix less.
struct ErrorBuffer {
  char data[4 * kKiB];
  std::size_t length = 0;

  void flush() noexcept {
    os::write_error(data, length);
    length = 0;
  }
};
void append_to_error(void* context, std::string_view text) noexcept {
  ErrorBuffer& buffer = *static_cast<ErrorBuffer*>(context);
  if (text.size() > sizeof buffer.data - buffer.length) buffer.flush();
  if (text.size() > sizeof buffer.data) return os::write_error(text.data(), text.size());
  std::memcpy(buffer.data + buffer.length, text.data(), text.size());
  buffer.length += text.size();
}

struct Visitor {
  void (*visit)(void* context, const glebe_block* block);
  void* context;
};
void visit_block(void* context, const heap::BlockVisit& block) noexcept {
  const Visitor& visitor = *static_cast<const Visitor*>(context);
  const glebe_block shown{block.address, block.size_bytes};
  visitor.visit(visitor.context, &shown);
}

#define NUMBER(name) +1
constexpr std::size_t kNumberCount = 0
#include "src/observe/numbers.def"
    ;
#undef NUMBER
static_assert(sizeof(glebe_stats) == (1 + kNumberCount) * sizeof(std::uint64_t));  // no number is missing

glebe_stats stats_of_snapshot(const observe::Snapshot& snapshot) noexcept {
  glebe_stats stats{};
#define NUMBER(name) stats.name = snapshot.name;
#include "src/observe/numbers.def"
#undef NUMBER
  return stats;
}

}  // namespace
}  // namespace glebe::api

using namespace glebe;

extern "C" {

const char* glebe_version(void) { return GLEBE_VERSION; }

void* glebe_malloc(size_t size) { return api::allocate(size); }

void* glebe_calloc(size_t count, size_t size) { return api::allocate_zeroed(count, size); }

void* glebe_realloc(void* block, size_t size) { return api::reallocate(block, size); }

void* glebe_aligned_alloc(size_t alignment, size_t size) {
  if (is_power_of_two(alignment)) return api::allocate_aligned(size, alignment);
  errno = EINVAL;
  return nullptr;
}

void glebe_free(void* block) { api::free_block(block); }

void glebe_free_sized(void* block, size_t size) { api::free_block_sized(block, size, 0); }

size_t glebe_usable_size(const void* block) { return block == nullptr ? 0 : heap::usable_bytes(block); }

size_t glebe_good_size(size_t size) { return size > api::kSizeMax ? 0 : heap::rounded_bytes(size); }

int glebe_owns(const void* address) { return heap::owns(address) ? 1 : 0; }

size_t glebe_trim(void) {
  api::ensure_configured();
  return heap::trim();
}

glebe_heap* glebe_heap_new(void) {
  api::ensure_configured();
  heap::Heap* heap = heap::create_heap();
  if (heap == nullptr) api::out_of_memory();
  return api::handle_of_heap(heap);
}

void glebe_heap_free(glebe_heap* heap) {
  if (heap == nullptr) return;
  heap::Heap* live = api::checked_heap(heap);
  if (live != nullptr) heap::destroy_heap(live);
}

void* glebe_heap_malloc(glebe_heap* heap, size_t size) { return api::allocate_from_heap(heap, size, 0); }

void* glebe_heap_calloc(glebe_heap* heap, size_t count, size_t size) {
  size_t product = 0;
  // A product that is too large is asked for as a size that cannot be had: the answer is the same.
  if (__builtin_mul_overflow(count, size, &product)) product = SIZE_MAX;
  void* block = api::allocate_from_heap(heap, product, 0);
  if (block != nullptr) std::memset(block, 0, product);
  return block;
}

void* glebe_heap_aligned_alloc(glebe_heap* heap, size_t alignment, size_t size) {
  if (is_power_of_two(alignment)) return api::allocate_from_heap(heap, size, alignment);
  errno = EINVAL;
  return nullptr;
}

glebe_heap* glebe_heap_of(const void* block) {
  return block == nullptr ? nullptr : api::handle_of_heap(heap::heap_of(block));
}

void glebe_heap_walk(void (*visit)(void* context, const glebe_block* block), void* context) {
  api::Visitor visitor{visit, context};
  heap::walk(api::visit_block, &visitor);
}

int glebe_heap_validate(void) { return heap::validate() ? 1 : 0; }

int glebe_stats_get(glebe_stats* stats) {
  constexpr size_t kOwnField = sizeof stats->struct_bytes;
  if (stats == nullptr || stats->struct_bytes < kOwnField) {
    errno = EINVAL;
    return -1;
  }
  observe::Snapshot snapshot;
  observe::take_snapshot(snapshot);
  glebe_stats full = api::stats_of_snapshot(snapshot);
  full.struct_bytes = stats->struct_bytes;
  const auto wanted = static_cast<size_t>(stats->struct_bytes);
  std::memcpy(stats, &full, wanted < sizeof full ? wanted : sizeof full);
  // A caller that was built against a later version finds zeros in the fields that are unknown here.
  char* behind = reinterpret_cast<char*>(stats) + sizeof full;
  if (wanted > sizeof full) std::memset(behind, 0, wanted - sizeof full);
  return 0;
}

size_t glebe_stats_json(char* buffer, size_t size) {
  observe::Snapshot snapshot;
  observe::take_snapshot(snapshot);
  api::JsonBuffer json{buffer, size == 0 ? 0 : size - 1};
  observe::write_json(snapshot, GLEBE_VERSION, {api::append_to_buffer, &json});
  if (size != 0) buffer[json.length < json.capacity ? json.length : json.capacity] = '\0';
  return json.length;
}

void glebe_stats_print(void) {
  observe::Snapshot snapshot;
  observe::take_snapshot(snapshot);
  api::ErrorBuffer error;
  observe::write_report(snapshot, GLEBE_VERSION, {api::append_to_error, &error});
  error.flush();
}

const char* glebe_option_name(size_t index) {
  const auto table = api::option_table();
  return index < table.size() ? table[index].name : nullptr;
}

int glebe_option_get(const char* name, uint64_t* value) {
  const api::OptionInfo* option = name == nullptr ? nullptr : api::find_option(name);
  if (option == nullptr || value == nullptr) {
    errno = EINVAL;
    return -1;
  }
  api::ensure_configured();
  *value = api::current_options().*option->value;
  return 0;
}

}  // extern "C"
