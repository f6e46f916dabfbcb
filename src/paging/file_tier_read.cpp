// Reading from the file tier; see file_tier.h. One object is one read of the units that hold it. Several are
// sorted by place, neighbours are joined into one read, and all reads are under way at once.
#include "src/paging/checksum.h"
#include "src/paging/file_tier.h"

namespace glebe::paging {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
// Units between two objects that are read for nothing rather than making two reads of them: 8 KiB.
constexpr std::uint32_t kJoinUnits = 16;

}  // namespace

// Objects that are read at once. It lies on the stack of threads that have little of it.
struct FileTier::ReadPlan {
  static constexpr unsigned kItemsMax = 64;
  struct Item {
    ObjectRead* read;
    const FileObject* object;
    std::uint32_t units, offset;  // in the file, and in the memory of the batch: units
    std::uint32_t request;
  };
  Item items[kItemsMax];
  os::IoRequest requests[kItemsMax];
  unsigned count = 0;
  std::uint32_t units = 0;  // of all items, without what lies between them

  [[nodiscard]] bool has_room_for(std::uint32_t more) const noexcept {
    // An item may bring as much again with it, from the gap in front of it.
    return count < kItemsMax && units + more + (count + 1) * kJoinUnits <= kBatchBytes / kUnitBytes;
  }
  // Keeps the items in the order of their places.
  void add(const Item& item) noexcept {
    const auto place = [](const FileObject& object) {
      return std::uint64_t{object.file} << 32 | object.unit;
    };
    unsigned at = count++;
    for (; at != 0 && place(*items[at - 1].object) > place(*item.object); --at) items[at] = items[at - 1];
    items[at] = item;
    units += item.units;
  }
};

// The record fits the handle and the size that is asked for; counted otherwise.
bool FileTier::is_expected(const FileObject* object, std::size_t size_bytes) noexcept {
  const bool is_it = object != nullptr && object->size_bytes() == size_bytes;
  if (!is_it) corrupt_reads_.fetch_add(1, kRelaxed);
  return is_it;
}

void FileTier::failed_read(int error) noexcept {
  failed_reads_.fetch_add(1, kRelaxed);
  last_error_.store(error, kRelaxed);
}

// Verifies what was read and makes the object of it.
GetResult FileTier::unpack(Handle handle, const std::byte* from, ObjectRead& read,
                           Scratch& scratch) noexcept {
  const FileObject& object = table_.at(ObjectTable::index_of(handle));
  const std::uint64_t sum =
      checksum(from, object.stored_bytes(), object.identity(ObjectTable::index_of(handle)));
  const Stored stored{from, object.stored_bytes(), object.size_bytes(), object.form};
  if (sum == object.checksum && expand(stored, read.to, scratch)) return GetResult::ok;
  corrupt_reads_.fetch_add(1, kRelaxed);
  return GetResult::corrupt;
}

GetResult FileTier::get(Handle handle, std::byte* to, std::size_t size_bytes, Scratch& scratch) noexcept {
  const FileObject* const object = table_.find(handle);
  if (!is_expected(object, size_bytes)) return GetResult::corrupt;
  const std::size_t stored_bytes = object->stored_bytes();
  const std::size_t read_bytes = files_.is_direct() ? align_up(stored_bytes, kUnitBytes) : stored_bytes;
  // Raw bytes go where they are wanted, without a copy.
  const bool is_in_place = object->form == Form::raw && !files_.is_direct();
  std::byte* const from = is_in_place ? to : ScratchParts(scratch).sectors;
  const int error = files_.file(object->file).read(object->unit * kUnitBytes, from, read_bytes);
  if (error != 0) {
    failed_read(error);
    return GetResult::io_error;
  }
  reads_.fetch_add(1, kRelaxed);
  read_bytes_.fetch_add(read_bytes, kRelaxed);
  ObjectRead read{handle, to, size_bytes, GetResult::ok};
  return unpack(handle, from, read, scratch);
}

unsigned FileTier::get_many(std::span<ObjectRead> reads, Batch& room, Scratch& scratch) noexcept {
  const BatchParts parts(room);
  ReadPlan plan;
  unsigned count = 0;
  for (ObjectRead& read : reads) {
    if (handle_kind(read.handle) != HandleKind::file) continue;
    ++count;
    const FileObject* const object = table_.find(read.handle);
    if (!is_expected(object, read.size_bytes)) {
      read.result = GetResult::corrupt;
      continue;
    }
    const auto units = static_cast<std::uint32_t>(divide_up(object->stored_bytes(), kUnitBytes));
    if (!plan.has_room_for(units)) {
      read_planned(plan, parts, scratch);
      plan.count = 0;
      plan.units = 0;
    }
    plan.add({&read, object, units, 0, 0});
  }
  read_planned(plan, parts, scratch);
  room.clear();
  return count;
}

void FileTier::read_planned(ReadPlan& plan, const BatchParts& room, Scratch& scratch) noexcept {
  unsigned requests = 0;
  std::uint32_t end = 0;  // in the memory of the batch
  for (unsigned i = 0; i < plan.count; ++i) {
    ReadPlan::Item& item = plan.items[i];
    const ReadPlan::Item* const before = i != 0 ? &plan.items[i - 1] : nullptr;
    // The same object may be asked for twice: then it begins before the last one ends.
    const std::uint32_t behind = before != nullptr ? before->object->unit + before->units : 0;
    const bool is_neighbour = before != nullptr && before->object->file == item.object->file &&
                              item.object->unit >= behind && item.object->unit - behind <= kJoinUnits;
    if (is_neighbour) {
      end += item.object->unit - behind;
    } else {
      plan.requests[requests++] = os::IoRequest{&files_.file(item.object->file),
                                                item.object->unit * kUnitBytes,
                                                room.data + end * kUnitBytes,
                                                0,
                                                false,
                                                0};
    }
    item.offset = end;
    item.request = requests - 1;
    end += item.units;
    os::IoRequest& request = plan.requests[item.request];
    request.size_bytes = static_cast<std::size_t>(room.data + end * kUnitBytes - request.data);
  }
  io_.run({plan.requests, requests});
  for (unsigned i = 0; i < requests; ++i) {
    if (plan.requests[i].error != 0) continue;
    reads_.fetch_add(1, kRelaxed);
    read_bytes_.fetch_add(plan.requests[i].size_bytes, kRelaxed);
  }
  for (unsigned i = 0; i < plan.count; ++i) {
    const ReadPlan::Item& item = plan.items[i];
    // What was read for another's sake may have failed for its own: the end of a file, a bad sector.
    item.read->result =
        plan.requests[item.request].error == 0
            ? unpack(item.read->handle, room.data + item.offset * kUnitBytes, *item.read, scratch)
            : get(item.read->handle, item.read->to, item.read->size_bytes, scratch);
  }
}

}  // namespace glebe::paging
