// The C interface of include/glebe/device_unified.h, buffers that processes share: checks pointers, converts
// types. State is what the handle points to.
#include <glebe/device_unified.h>

#include "src/api/device_unified_handles.h"
#include "src/device/unified_share.h"

namespace glebe::api {
namespace {

struct OwnShare {
  dev::ChunkPool chunks;
  dev::UnifiedShare share;  // ends before the chunks that it gives back
};

OwnShare& own(glebe_unified_share* share) noexcept { return *reinterpret_cast<OwnShare*>(share); }

// Opens the chunks of the side of the device, in as few and as small ones as a message can carry.
dev::Outcome open_chunks(dev::Gpu& gpu, const glebe_unified_share_options& from,
                         dev::ChunkPool* chunks) noexcept {
  if (!gpu.facts().has_shareable_handles) return dev::Status::unsupported;
  if (from.size == 0 || from.size > dev::kUnifiedBytesMax) return dev::Status::bad_argument;
  dev::ChunkPoolOptions options;
  options.is_shareable = true;
  options.chunk_bytes = from.chunk_bytes;
  if (options.chunk_bytes == 0) {
    options.chunk_bytes =
        align_up(divide_up(from.size, dev::SharedBlock::kChunksMax), gpu.facts().granule_bytes);
  }
  return chunks->open(gpu, options);
}

}  // namespace
}  // namespace glebe::api

using namespace glebe::api;

extern "C" {

glebe_device_result glebe_unified_share_create(glebe_unified* unified,
                                               const glebe_unified_share_options* options,
                                               glebe_unified_share** share) {
  if (unified == nullptr || options == nullptr || share == nullptr ||
      options->struct_bytes < sizeof *options) {
    return glebe_device_bad_argument;
  }
  OwnShare* const made = make_own<OwnShare>();
  if (made == nullptr) return glebe_device_no_host_memory;
  dev::UnifiedMemory& memory = own(unified).memory;
  dev::UnifiedShare::Options wanted;
  wanted.size_bytes = options->size;
  wanted.has_host = options->has_host != 0;
  wanted.is_pinned = options->is_pageable == 0;
  dev::Outcome outcome;
  if (options->has_device != 0) {
    wanted.chunks = &made->chunks;
    outcome = open_chunks(memory.gpu(), *options, &made->chunks);
  }
  if (outcome.ok()) outcome = made->share.create(memory, wanted);
  if (!outcome.ok()) {
    end_own(made);
    return to_c(outcome);
  }
  *share = reinterpret_cast<glebe_unified_share*>(made);
  return glebe_device_ok;
}

glebe_device_result glebe_unified_share_send(glebe_unified_share* share, int socket) {
  if (share == nullptr || socket < 0) return glebe_device_bad_argument;
  return to_c(own(share).share.send(socket));
}

glebe_device_result glebe_unified_share_receive(glebe_unified* unified, int socket, int is_pageable,
                                                glebe_unified_share** share) {
  if (unified == nullptr || share == nullptr || socket < 0) return glebe_device_bad_argument;
  OwnShare* const made = make_own<OwnShare>();
  if (made == nullptr) return glebe_device_no_host_memory;
  const dev::Outcome outcome = made->share.receive(own(unified).memory, socket, is_pageable == 0);
  if (!outcome.ok()) {
    end_own(made);
    return to_c(outcome);
  }
  *share = reinterpret_cast<glebe_unified_share*>(made);
  return glebe_device_ok;
}

glebe_unified_buffer glebe_unified_share_buffer(glebe_unified_share* share) {
  return share != nullptr ? own(share).share.buffer().handle() : 0;
}

glebe_device_result glebe_unified_share_hand_over(glebe_unified_share* share) {
  return share != nullptr ? to_c(own(share).share.hand_over()) : glebe_device_bad_argument;
}

glebe_device_result glebe_unified_share_take_over(glebe_unified_share* share) {
  return share != nullptr ? to_c(own(share).share.take_over()) : glebe_device_bad_argument;
}

glebe_device_result glebe_unified_share_close(glebe_unified_share* share) {
  if (share == nullptr) return glebe_device_ok;
  const dev::Outcome outcome = own(share).share.close();
  if (outcome.ok()) end_own(&own(share));
  return to_c(outcome);
}

}  // extern "C"
