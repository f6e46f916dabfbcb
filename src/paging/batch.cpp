// A batch of objects on their way to the page files; see batch.h.
#include "src/paging/batch.h"

#include <cstring>

#include "platform/vm.h"
#include "src/base/check.h"

namespace glebe::paging {
namespace {

constexpr std::size_t kAllBytes =
    align_up(kBatchBytes + kPageBytes + kBatchObjectsMax * sizeof(BatchEntry), kPageBytes);

}  // namespace

bool Batch::open() noexcept {
  CHECK(base_ == nullptr);
  void* const base = os::reserve(kAllBytes, os::page_bytes());
  if (base == nullptr) return false;
  if (!os::commit(base, kAllBytes)) {
    os::release(base, kAllBytes);
    return false;
  }
  base_ = static_cast<std::byte*>(base);
  clear();
  return true;
}

Batch::~Batch() {
  if (base_ != nullptr) os::release(base_, kAllBytes);
}

void Batch::clear() noexcept {
  used_bytes_ = 0;
  count_ = 0;
}

Handle Batch::written(unsigned index) const noexcept {
  CHECK(index < count_);
  return BatchParts(const_cast<Batch&>(*this)).entries[index].written;
}

bool BatchParts::add(Batch& batch, const Stored& stored) noexcept {
  CHECK(batch.base_ != nullptr);
  const std::size_t taken = align_up(stored.stored_bytes, kUnitBytes);
  if (batch.count_ == kBatchObjectsMax || taken > kBatchBytes - batch.used_bytes_) return false;
  const BatchParts parts(batch);
  std::byte* const to = parts.data + batch.used_bytes_;
  std::memcpy(to, stored.data, stored.stored_bytes);
  std::memset(to + stored.stored_bytes, 0, taken - stored.stored_bytes);
  parts.entries[batch.count_] = BatchEntry{
      kNoObject,  static_cast<std::uint32_t>(batch.used_bytes_), stored.stored_bytes, stored.size_bytes, 0,
      stored.form};
  batch.used_bytes_ += taken;
  batch.count_ += 1;
  return true;
}

}  // namespace glebe::paging
