/* Memory of a GPU by the C interface from C: the headers compile as C99 and as C11, and one call of each part
 * does what it says, on an emulated device. Ends with the line of the first thing that was not right. */
#include <glebe/device.h>
#include <glebe/device_memory_pool.h>
#include <glebe/device_transfer.h>
#include <glebe/device_unified.h>

#include <stdio.h>
#include <string.h>

#define REQUIRE(what)                                \
  do {                                               \
    if (!(what)) {                                   \
      printf("line %d: %s\n", __LINE__, #what);      \
      return 1;                                      \
    }                                                \
  } while (0)

static const uint64_t mib = 1u << 20;

static int may_move(void* context, const glebe_device_block* block) {
  return context == NULL && block->size != 0;
}
static void moved(void* context, const glebe_device_move* move) {
  (void)context;
  (void)move;
}

static int use_heap(glebe_device* device) {
  glebe_device_heap_options options = {0};
  glebe_device_heap* heap = NULL;
  glebe_device_defragment_options compact = {0};
  uint64_t block = 0;
  uint32_t tag = 0;
  options.struct_bytes = sizeof options;
  options.coarse_bytes = 4 * mib;
  REQUIRE(glebe_device_heap_open(device, &options, &heap) == glebe_device_ok);
  REQUIRE(glebe_device_heap_tag(heap, "c", &tag) == glebe_device_ok);
  REQUIRE(glebe_device_heap_allocate_tagged(heap, 100, 0, tag, &block) == glebe_device_ok);
  compact.struct_bytes = sizeof compact;
  compact.may_move = may_move;
  compact.moved = moved;
  REQUIRE(glebe_device_heap_defragment(heap, &compact, NULL) == glebe_device_ok);
  REQUIRE(glebe_device_heap_close(heap) == 1);
  return 0;
}

static int use_unified(glebe_device* device) {
  glebe_unified* unified = NULL;
  glebe_unified_buffer buffer = 0;
  glebe_unified_range range = {0, 0, 0};
  glebe_unified_guard guard = {0};
  uint32_t word = 0;
  REQUIRE(glebe_unified_open(device, NULL, &unified) == glebe_device_ok);
  REQUIRE(glebe_unified_create(unified, 4096, 1, &buffer) == glebe_device_ok);
  range.buffer = buffer;
  REQUIRE(glebe_unified_access(unified, &range, glebe_unified_host_overwrite, NULL, NULL, &guard) ==
          glebe_device_ok);
  memset(guard.data, 0x21, guard.size);
  glebe_unified_end(&guard);
  REQUIRE(glebe_unified_access(unified, &range, glebe_unified_device_read, NULL, NULL, &guard) ==
          glebe_device_ok);
  REQUIRE(glebe_device_stream_synchronize(device, NULL) == glebe_device_ok);
  REQUIRE(glebe_device_read(device, &word, guard.address + 4092, 4) == glebe_device_ok);
  glebe_unified_end(&guard);
  REQUIRE(word == 0x21212121);
  REQUIRE(glebe_unified_release(unified, buffer) == glebe_device_ok);
  REQUIRE(glebe_unified_close(unified) == glebe_device_ok);
  return 0;
}

static int use_transfers(glebe_device* device) {
  glebe_memory_pool_options options = {0};
  glebe_memory_pool* pool = NULL;
  glebe_transfer_queue* queue = NULL;
  glebe_transfer transfer = {0};
  glebe_transfer_ticket ticket = 0;
  uint64_t block = 0;
  char seen[6] = "";
  options.struct_bytes = sizeof options;
  options.source = glebe_source_device;
  options.engine = glebe_engine_bins;
  options.max_bytes = 4 * mib;
  REQUIRE(glebe_memory_pool_open(device, &options, &pool) == glebe_device_ok);
  REQUIRE(glebe_memory_pool_allocate(pool, 1000, 0, &block) == glebe_device_ok);
  REQUIRE(glebe_transfer_queue_open(device, NULL, &queue) == glebe_device_ok);
  transfer.struct_bytes = sizeof transfer;
  transfer.kind = glebe_transfer_upload;
  transfer.device = block;
  transfer.from = "hello";
  transfer.size = 6;
  transfer.is_verified = 1;
  REQUIRE(glebe_transfer_submit(queue, &transfer, 1, &ticket) == glebe_device_ok);
  REQUIRE(glebe_transfer_wait(queue, ticket, UINT64_MAX) == glebe_device_ok);
  REQUIRE(glebe_transfer_release(queue, ticket) == glebe_device_ok);
  REQUIRE(glebe_device_read(device, seen, block, 6) == glebe_device_ok);
  REQUIRE(strcmp(seen, "hello") == 0);
  REQUIRE(glebe_transfer_queue_close(queue, glebe_transfer_end_wait) == glebe_device_ok);
  REQUIRE(glebe_memory_pool_free(pool, block) == glebe_device_ok);
  REQUIRE(glebe_memory_pool_close(pool) == glebe_device_ok);
  return 0;
}

int main(void) {
  glebe_device_options options = {0};
  glebe_device* device = NULL;
  glebe_device_info info;
  options.struct_bytes = sizeof options;
  options.kind = glebe_device_emulated;
  options.emulated_bytes = 32 * mib;
  options.emulated_host_bytes = 64 * mib;
  REQUIRE(glebe_device_open(&options, &device, NULL, 0) == glebe_device_ok);
  if (use_heap(device) != 0 || use_unified(device) != 0 || use_transfers(device) != 0) return 1;
  REQUIRE(glebe_device_get_info(device, &info) == glebe_device_ok);
  REQUIRE(info.free_bytes == 32 * mib);
  glebe_device_close(device);
  return 0;
}
