// Buffers come and go: opening the pager, handles, names, references, numbers; see buffer_pager.h.
#include "src/paging/buffer_pager.h"

#include <cstring>
#include <new>

#include "platform/process.h"
#include "platform/vm.h"
#include "src/base/bits.h"
#include "src/base/check.h"
#include "src/paging/buffer_use.h"

namespace glebe::paging {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr std::uint32_t kLeastPages = 16 * 1024;  // 64 MiB of buffers, or the pager does not open
constexpr std::uint32_t kExtentsMax = 1u << 26;
constexpr std::uint32_t kBuffersMax = 1u << 24;
constexpr unsigned kSpareMovers = 8;  // threads of the program that move at the same time without waiting

constinit std::atomic<bool> has_fork_hook{false};

// FNV-1a.
std::uint64_t hash_of(std::string_view name) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char character : name) {
    hash = (hash ^ static_cast<unsigned char>(character)) * 0x100000001b3u;
  }
  return hash ^ hash >> 32;
}

}  // namespace

const char* text_of(Result result) noexcept {
  switch (result) {
    case Result::ok:
      return "done";
    case Result::bad_handle:
      return "no such buffer or ticket: it was closed, or never given out by this pager";
    case Result::bad_argument:
      return "a size, range, tier, name or option makes no sense: compare it with the comment of the "
             "function";
    case Result::not_resident:
      return "the content is not in memory and implicit page-in is off: page it in first";
    case Result::pinned:
      return "the range is pinned or being written: unpin it first";
    case Result::last_copy:
      return "this is the only valid copy: move it elsewhere, or discard it on purpose";
    case Result::over_budget:
      return "the budget of the tier is used up by what cannot leave: unpin something or raise the limit";
    case Result::no_memory:
      return "the system gives no more memory or addresses: close buffers or raise the limits of the process";
    case Result::no_tier:
      return "the pager was opened without this tier, or its directory cannot be used: set the tier's option";
    case Result::tier_full:
      return "the tier takes no more (disk full, limit, or write error): free space or raise its limit";
    case Result::incompressible:
      return "the content does not shrink, so the compressed tier does not keep it: page it to a file";
    case Result::io_error:
      return "the page file cannot be read at the moment: try again, or look at the disk";
    case Result::corrupt:
      return "what was read back is not what was written, the content is lost: discard the range and look at "
             "the disk";
    case Result::device_error:
      return "the device has no room for a contiguous extent, or a transfer failed: free device memory";
    case Result::codec_error:
      return "the codec of the buffer refused the content: it stays where it is";
    case Result::wrong_type:
      return "the buffer holds elements of another type: open it with the type it was created with";
    case Result::too_many_pins:
      return "an extent has as many pins as it can count: unpin some";
    case Result::cancelled:
      return "the operation was cancelled before it began";
    case Result::busy:
      return "the operation has begun already";
    case Result::in_child:
      return "this process is a fork of the one that opened the pager: open another one here";
  }
  return "unknown result";
}

Result BufferPager::check_options(const BufferPagerOptions& options) const noexcept {
  const bool is_extent = is_power_of_two(options.extent_bytes) && options.extent_bytes >= os::page_bytes() &&
                         options.extent_bytes <= kExtentBytesMax;
  if (!is_extent || options.workers > kWorkersMax) return Result::bad_argument;
  if (options.address_bytes < kLeastPages * os::page_bytes()) return Result::bad_argument;
  if (static_cast<unsigned>(options.victims) >= kVictimKinds) return Result::bad_argument;
  if (static_cast<unsigned>(options.trigger) >= kTriggerKinds) return Result::bad_argument;
  const TriggerLimits& limits = options.limits;
  const bool are_ordered = limits.host_start <= limits.low_memory &&
                           limits.device_start <= limits.low_memory && limits.low_memory <= limits.severe &&
                           limits.severe <= kFullPressure;
  return are_ordered ? Result::ok : Result::bad_argument;
}

Result BufferPager::open_store(const BufferPagerOptions& options) noexcept {
  StoreOptions store;
  store.codec = options.codec;
  store.compressed_limit_bytes = options.compressed_bytes;
  store.directory = options.directory;
  store.file_bytes_max = options.file_bytes_max;
  switch (store_.open(store)) {
    case StoreProblem::none:
      return Result::ok;
    case StoreProblem::no_memory:
      return Result::no_memory;
    case StoreProblem::no_directory:
    case StoreProblem::no_file:
      break;
  }
  return Result::no_tier;
}

Result BufferPager::open(const BufferPagerOptions& options) noexcept {
  if (was_open_) return Result::bad_argument;
  if (const Result result = check_options(options); result != Result::ok) return result;
  options_ = options;
  BudgetResult budgets =
      host_budget_.open("host", options.host_bytes, options.host_action, options.host_callbacks);
  if (budgets == BudgetResult::ok) {
    budgets = device_budget_.open("device", options.device_bytes, BudgetAction::enforce, {});
  }
  if (budgets == BudgetResult::ok) {
    budgets = file_budget_.open("file", options.file_bytes, BudgetAction::enforce, {});
  }
  const std::uint64_t compressed_bytes = options.compressed_bytes;
  if (budgets == BudgetResult::ok && compressed_bytes != 0) {
    budgets = compressed_budget_.open("compressed", compressed_bytes, BudgetAction::enforce, {});
  }
  if (budgets != BudgetResult::ok) return Result::bad_argument;
  const auto after_fork = [] { forks_.fetch_add(1, kRelaxed); };
  if (!has_fork_hook.exchange(true) && !os::set_fork_hook(after_fork)) return Result::no_memory;
  fork_count_ = forks_.load(kRelaxed);
  device_ = options.device != nullptr ? *options.device : DeviceMemory{};
  compressed_limit_.store(options.compressed_bytes, kRelaxed);
  extent_shift_ = log2_floor(options.extent_bytes);
  if (const Result result = open_store(options); result != Result::ok) return result;
  std::uint64_t page_count = options.address_bytes / os::page_bytes();
  if (page_count > placement::kTlsfUnitsMax) page_count = placement::kTlsfUnitsMax;
  const auto pages = static_cast<std::uint32_t>(page_count);
  const std::size_t names_bytes = kNameBuckets * sizeof(Buffer*);
  void* names = os::reserve(names_bytes, os::page_bytes());
  if (names != nullptr && !os::commit(names, names_bytes)) {
    os::release(names, names_bytes);
    names = nullptr;
  }
  names_ = static_cast<Buffer**>(names);
  is_open_ = was_open_ = true;  // from here on close() undoes it
  const bool is_made =
      names_ != nullptr && pages_.open(pages, os::page_bytes(), kLeastPages) &&
      extents_.open(pages < kExtentsMax ? pages : kExtentsMax, sizeof(Extent), kLeastPages) &&
      buffers_.open(pages < kBuffersMax ? pages : kBuffersMax, sizeof(Buffer), kLeastPages) &&
      part_table_.open(options.extent_bytes, options.address_bytes) &&
      movers_.open(options.workers + kSpareMovers, options.codec, options.extent_bytes);
  if (is_made) {
    host_victims_ = new (victims_memory_[0]) Victims(options.victims);
    device_victims_ = new (victims_memory_[1]) Victims(options.victims);
    for (Trigger& trigger : triggers_) trigger = Trigger(options.trigger);
    if (requests_.open(options.workers)) return Result::ok;
  }
  close();
  return Result::no_memory;
}

void BufferPager::close() noexcept {
  if (!is_open_) return;
  if (is_in_child()) {
    // The threads are not here, and the files belong to the parent as well: nothing is given back in them.
    requests_.forget_in_child();
    store_.seal_in_child();
  } else {
    stop_crawler();
    requests_.close();
  }
  is_open_ = false;
  movers_.close();
  store_.close();
  if (names_ != nullptr) os::release(names_, kNameBuckets * sizeof(Buffer*));
  names_ = nullptr;
  all_.forget_all();
  if (device_.free != nullptr && extents_.capacity_units() != 0 && !is_in_child()) free_device_copies();
  pages_.close();
  extents_.close();
  buffers_.close();
  part_table_.close();
  host_victims_ = device_victims_ = nullptr;
}

// The device outlives the pager: what buffers still had there goes back.
void BufferPager::free_device_copies() noexcept {
  const std::uint32_t known = extents_.known_units();
  for (std::uint32_t i = 0; i < known; ++i) {
    Extent& extent = *reinterpret_cast<Extent*>(extents_.at(i));
    if (!extent.load().has(Tier::device)) continue;
    device_.free(device_.context, extent.device, extent.memory_bytes);
  }
}

Budget& BufferPager::budget_of(Tier tier) noexcept {
  switch (tier) {
    case Tier::host:
      return host_budget_;
    case Tier::compressed:
      return compressed_budget_;
    case Tier::device:
      return device_budget_;
    case Tier::file:
      break;
  }
  return file_budget_;
}

bool BufferPager::has_tier(Tier tier) const noexcept {
  switch (tier) {
    case Tier::host:
      return true;
    case Tier::compressed:
      return options_.compressed_bytes != 0;
    case Tier::device:
      return device_.allocate != nullptr;
    case Tier::file:
      break;
  }
  return options_.directory != nullptr;
}

// Where the only copy goes when `tier` has to give it up; `tier` itself when there is nowhere to go.
Tier BufferPager::spill_tier(Tier tier) const noexcept {
  for (const Tier other : {Tier::compressed, Tier::file, Tier::host}) {
    if (other != tier && has_tier(other)) return other;
  }
  return tier;
}

// --- References

BufferHandle BufferPager::handle_of(const Buffer& buffer) const noexcept {
  const std::uint32_t generation = unpack_life(buffer.life.load(kRelaxed)).generation;
  return std::uint64_t{generation} << 32 | (std::uint64_t{buffers_.unit_of(&buffer)} + 1);
}

bool BufferPager::add_user(Buffer& buffer) noexcept {
  std::uint64_t word = buffer.life.load(std::memory_order_acquire);
  for (;;) {
    Life life = unpack_life(word);
    if (life.users == 0 || life.users == kUsersMax) return false;
    ++life.users;
    if (buffer.life.compare_exchange_weak(word, pack_life(life), std::memory_order_acq_rel)) return true;
  }
}

// Keeps the buffer's record and memory while an operation runs. False: nobody has a reference any more. Waits
// for a resize. With kAnyGeneration, for whoever needs room: does not wait, and takes closed buffers too that
// are kept by operations which have not begun.
bool BufferPager::hold(Buffer& buffer, std::uint32_t generation) noexcept {
  std::uint64_t word = buffer.life.load(std::memory_order_acquire);
  for (;;) {
    Life life = unpack_life(word);
    const bool is_alive = life.users != 0 || (generation == kAnyGeneration && life.uses != 0);
    if (!is_alive || life.uses == kUsesMax) return false;
    if (generation != kAnyGeneration && life.generation != generation) return false;
    if (life.is_changing) {
      if (generation == kAnyGeneration) return false;
      wait_changed(buffer);
      word = buffer.life.load(std::memory_order_acquire);
      continue;
    }
    ++life.uses;
    if (buffer.life.compare_exchange_weak(word, pack_life(life), std::memory_order_acq_rel)) return true;
  }
}

Result BufferPager::close_buffer(BufferHandle handle) noexcept {
  if (is_in_child()) return Result::in_child;
  Buffer* buffer = record_of(handle);
  if (buffer == nullptr) return Result::bad_handle;
  std::uint64_t word = buffer->life.load(std::memory_order_acquire);
  Life life;
  do {
    life = unpack_life(word);
    if (life.users == 0 || life.generation != static_cast<std::uint32_t>(handle >> 32)) {
      return Result::bad_handle;
    }
    --life.users;
  } while (!buffer->life.compare_exchange_weak(word, pack_life(life), std::memory_order_acq_rel));
  if (life.users == 0 && life.uses == 0) end_buffer(*buffer);
  return Result::ok;
}

// --- Making and ending

// Makes extents from number `first` on, without any content.
void BufferPager::set_extents(Buffer& buffer, std::uint32_t first) noexcept {
  const std::size_t extent_bytes = options_.extent_bytes;
  for (std::uint32_t i = first; i < buffer.extent_count; ++i) {
    Extent& extent = buffer.extents[i];
    const std::size_t offset = i * extent_bytes;
    const std::size_t rest = buffer.size_bytes - offset;
    // The record may have served another buffer: its generation goes on, everything else starts anew.
    Residency state;
    state.generation =
        static_cast<std::uint16_t>((unpack(extent.state.load(kRelaxed)).generation + 1) & 0x3fff);
    extent.compressed = extent.file = kNoObject;
    extent.device = kNoDeviceAddress;
    extent.buffer = &buffer;
    extent.address = buffer.address + offset;
    extent.size_bytes = static_cast<std::uint32_t>(rest < extent_bytes ? rest : extent_bytes);
    extent.memory_bytes = static_cast<std::uint32_t>(align_up(extent.size_bytes, os::page_bytes()));
    const os::Lock hold(victims_lock_);  // the log of uses may know the items from another life
    for (VictimItem* item : {&extent.item(Tier::host), &extent.item(Tier::device)}) {
      item->birth = births_.fetch_add(1, kRelaxed);
      item->size_bytes = buffer.size_bytes;
      item->queue = VictimItem::kNone;
      item->is_streaming = buffer.usage == Usage::streaming;
      item->last_use.store(epoch(), kRelaxed);
      item->references.store(0, kRelaxed);
    }
    extent.state.store(pack(state), std::memory_order_release);
  }
}

// A tag of the host's budget, and those of the same name in the others; a full table counts under "other".
void BufferPager::set_tags(Buffer& buffer, BudgetTag tag) noexcept {
  for (unsigned i = 0; i < kTiers; ++i) {
    buffer.tags[i] = 0;
    Budget& budget = budget_of(static_cast<Tier>(i));
    if (&budget == &host_budget_) {
      buffer.tags[i] = tag;
    } else if (tag != 0 && budget.tag(host_budget_.name_of(tag), &buffer.tags[i]) != BudgetResult::ok) {
      buffer.tags[i] = 0;
    }
  }
}

Result BufferPager::make_buffer(std::size_t size_bytes, const BufferOptions& options,
                                Buffer** made) noexcept {
  if (size_bytes == 0 || size_bytes > options_.address_bytes || options.name.size() > kBufferNameMax ||
      static_cast<unsigned>(options.usage) > static_cast<unsigned>(Usage::fixed) ||
      options.tag >= host_budget_.tag_count()) {
    return Result::bad_argument;
  }
  const std::uint64_t pages = divide_up(size_bytes, os::page_bytes());
  const std::uint64_t extents = divide_up(size_bytes, options_.extent_bytes);
  if (pages > pages_.capacity_units() || extents > extents_.capacity_units()) return Result::no_memory;
  const placement::Run record = buffers_.take(1);
  if (record.empty()) return Result::no_memory;
  const placement::Run page_run = pages_.take(static_cast<std::uint32_t>(pages));
  const placement::Run extent_run =
      page_run.empty() ? placement::Run{} : extents_.take(static_cast<std::uint32_t>(extents));
  if (extent_run.empty()) {
    if (!page_run.empty()) CHECK(pages_.give_back(page_run.first));
    CHECK(buffers_.give_back(record.first));
    return Result::no_memory;
  }
  Buffer& buffer = *reinterpret_cast<Buffer*>(buffers_.at(record.first));
  buffer.address = pages_.at(page_run.first);
  buffer.size_bytes = size_bytes;
  buffer.extents = reinterpret_cast<Extent*>(extents_.at(extent_run.first));
  buffer.extent_count = static_cast<std::uint32_t>(extents);
  buffer.page_run = page_run.first;
  buffer.extent_run = extent_run.first;
  buffer.usage = options.usage;
  buffer.type_id = options.type_id;
  buffer.has_codec = options.codec != nullptr;
  if (options.codec != nullptr) buffer.codec = *options.codec;
  buffer.is_named = false;
  set_tags(buffer, options.tag);
  set_extents(buffer, 0);
  unbacked_bytes_.fetch_add(size_bytes, kRelaxed);
  total_bytes_.fetch_add(size_bytes, kRelaxed);
  extent_total_.fetch_add(extents, kRelaxed);
  buffer_total_.fetch_add(1, kRelaxed);
  std::uint32_t known = known_buffers_.load(kRelaxed);
  while (known <= record.first &&
         !known_buffers_.compare_exchange_weak(known, record.first + 1, std::memory_order_release)) {
  }
  Life life = unpack_life(buffer.life.load(kRelaxed));
  life.users = 1;
  life.uses = 0;
  buffer.life.store(pack_life(life), std::memory_order_release);
  *made = &buffer;
  return Result::ok;
}

// Nobody can reach the buffer any more except by its name and the list of all buffers.
void BufferPager::end_buffer(Buffer& buffer) noexcept {
  {
    const os::Lock hold(names_lock_);
    unlink_name(buffer);
    all_.remove(&buffer);
  }
  {
    Mover mover(*this);
    for (std::uint32_t i = 0; i < buffer.extent_count; ++i) {
      Extent& extent = buffer.extents[i];
      Refusal refusal = Refusal::none;
      const Result result = mover.move(extent, {Operation::discard, Tier::host}, nullptr, &refusal);
      CHECK(result == Result::ok && refusal == Refusal::none);
      dequeue_victim(extent);
    }
  }
  unbacked_bytes_.fetch_sub(buffer.size_bytes, kRelaxed);
  total_bytes_.fetch_sub(buffer.size_bytes, kRelaxed);
  extent_total_.fetch_sub(buffer.extent_count, kRelaxed);
  buffer_total_.fetch_sub(1, kRelaxed);
  CHECK(extents_.give_back(buffer.extent_run));
  CHECK(pages_.give_back(buffer.page_run));
  Life life = unpack_life(buffer.life.load(kRelaxed));
  life.generation = (life.generation + 1) % kGenerations;
  buffer.life.store(pack_life(life), std::memory_order_release);
  CHECK(buffers_.give_back(buffers_.unit_of(&buffer)));
}

// --- Names

// The link that points to the buffer of that name, or the null link where it would be. Under names_lock_.
Buffer** BufferPager::name_slot(std::string_view name, std::uint64_t hash) noexcept {
  Buffer** slot = &names_[hash % kNameBuckets];
  while (*slot != nullptr && ((*slot)->name_hash != hash || name != (*slot)->name))
    slot = &(*slot)->name_next;
  return slot;
}

void BufferPager::unlink_name(Buffer& buffer) noexcept {
  if (!buffer.is_named) return;
  Buffer** slot = &names_[buffer.name_hash % kNameBuckets];
  while (*slot != &buffer) slot = &(*slot)->name_next;
  *slot = buffer.name_next;
  buffer.is_named = false;
}

Result BufferPager::create(std::size_t size_bytes, const BufferOptions& options,
                           BufferHandle* handle) noexcept {
  bool is_new = false;
  BufferHandle found = 0;
  const Result result = open_or_create(size_bytes, options, &found, &is_new);
  if (result != Result::ok) return result;
  if (!is_new) {
    static_cast<void>(close_buffer(found));
    return Result::bad_argument;
  }
  *handle = found;
  return Result::ok;
}

Result BufferPager::open_or_create(std::size_t size_bytes, const BufferOptions& options, BufferHandle* handle,
                                   bool* is_new) noexcept {
  if (is_in_child()) return Result::in_child;
  const std::uint64_t hash = hash_of(options.name);
  const os::Lock hold(names_lock_);
  if (!options.name.empty()) {
    Buffer* const found = *name_slot(options.name, hash);
    // A buffer whose last reference is going keeps its name until it has ended: the new one takes it over.
    if (found != nullptr && found->type_id != options.type_id &&
        unpack_life(found->life.load(std::memory_order_acquire)).users != 0) {
      return Result::wrong_type;
    }
    if (found != nullptr && add_user(*found)) {
      *handle = handle_of(*found);
      *is_new = false;
      return Result::ok;
    }
    if (found != nullptr) unlink_name(*found);
  }
  Buffer* made = nullptr;
  if (const Result result = make_buffer(size_bytes, options, &made); result != Result::ok) return result;
  all_.push_back(made);
  if (!options.name.empty()) {
    std::memcpy(made->name, options.name.data(), options.name.size());
    made->name[options.name.size()] = '\0';
    made->name_hash = hash;
    Buffer*& head = names_[hash % kNameBuckets];
    made->name_next = head;
    head = made;
    made->is_named = true;
  }
  *handle = handle_of(*made);
  *is_new = true;
  return Result::ok;
}

Result BufferPager::find(std::string_view name, BufferHandle* handle) noexcept {
  if (is_in_child()) return Result::in_child;
  if (name.empty()) return Result::bad_argument;
  const os::Lock hold(names_lock_);
  Buffer* const found = *name_slot(name, hash_of(name));
  if (found == nullptr || !add_user(*found)) return Result::bad_handle;
  *handle = handle_of(*found);
  return Result::ok;
}

Result BufferPager::remove_name(std::string_view name) noexcept {
  if (is_in_child()) return Result::in_child;
  const os::Lock hold(names_lock_);
  Buffer* const found = *name_slot(name, hash_of(name));
  if (found == nullptr) return Result::bad_handle;
  unlink_name(*found);
  return Result::ok;
}

}  // namespace glebe::paging
