// Explicit buffers that page between host memory, a compressed tier, a device and page files (namespace
// glebe::paging). Programs use it through include/glebe/paging.h.
//
// A buffer has an address for as long as it lives; its bytes are there while a range of it is pinned. What is
// not pinned may leave at any time, by name (page, swap) or because the budget of the host needs room. All
// calls work on extents (residency.h); each is one word, so threads meet only on extents that they share.
//
// Locks, none of them held across I/O, a transfer, a codec or a callback: names_lock_ (names, list of all
// buffers), victims_lock_ (both policies), the locks inside Space, Budget tags, the queue of requests. They
// are never nested, except that create holds names_lock_ while it takes room in a Space and looks tags up.
//
// Thread-safe: any thread may call anything but open() and close(). Works without privileges. In a forked
// child every call answers in_child, except close(), which gives the memory back; the bytes of ranges that
// were pinned at the fork stay readable and writable there until then, as plain private memory.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "platform/thread.h"
#include "src/base/list.h"
#include "src/paging/buffer.h"
#include "src/paging/monitor.h"
#include "src/paging/mover.h"
#include "src/paging/space.h"
#include "src/paging/store.h"
#include "src/paging/trigger.h"
#include "src/paging/use_log.h"
#include "src/paging/worker.h"

namespace glebe::paging {

struct BufferPagerOptions {
  std::uint64_t host_bytes = std::uint64_t{2} << 30;  // budget of resident extents
  BudgetAction host_action = BudgetAction::enforce;   // when everything that can leave has left
  BudgetCallbacks host_callbacks;
  std::uint64_t device_bytes = std::uint64_t{1} << 30;  // budget of the device tier; without a device unused
  const DeviceMemory* device = nullptr;                 // copied; its context outlives the pager
  std::uint64_t compressed_bytes = 0;                   // RAM of the compressed tier; 0: there is none
  const char* directory = nullptr;                      // of the page files; nullptr: there are none
  std::uint64_t file_bytes = kNoLimit;                  // budget of page files, in bytes before compression
  std::uint64_t file_bytes_max = std::uint64_t{2} << 30;  // each page file
  Codec codec = Codec::lz4;
  std::size_t extent_bytes = 64 * 1024;  // a power of two, from the os page to kExtentBytesMax
  std::uint64_t address_bytes = std::uint64_t{1} << 40;  // most that all buffers may measure together
  VictimKind victims = VictimKind::s3_fifo;
  TriggerKind trigger = TriggerKind::hybrid;
  TriggerLimits limits;
  bool implicit_page_in = true;  // pinning brings content back; off: Result::not_resident
  bool watch_system = false;     // pressure of the host is also that of the machine and control group
  unsigned workers = 2;  // threads for asynchronous calls, at most kWorkersMax; 0: calls complete first
};

struct BufferOptions {
  std::string_view name;  // empty: none
  Usage usage = Usage::static_use;
  BudgetTag tag = 0;  // of host_budget(); the other budgets count it under the same name
  std::uint64_t type_id = 0;
  const BufferCodec* codec = nullptr;  // copied
};

using BufferHandle = std::uint64_t;  // 0 names nothing

enum class Access : std::uint8_t { read, write };

// A pinned range. Empty when the result is not ok.
struct PinnedRange {
  std::byte* data = nullptr;
  Result result = Result::bad_handle;
};

// A range of a buffer; size_bytes 0: to the end.
struct ByteRange {
  std::size_t offset_bytes = 0;
  std::size_t size_bytes = 0;
};

// Which bytes to copy where. size_bytes 0: from both offsets to the end, which must be equally far.
struct CopyRanges {
  BufferHandle from = 0, to = 0;
  std::size_t from_offset = 0, to_offset = 0, size_bytes = 0;
};

// Why a range was refused. The numbers are part of the C interface (glebe_range_problem).
enum class RangeProblem : std::uint8_t {
  none,
  outside,             // offset + size > limit, the size of the buffer
  source_outside,      // the same of the buffer that is read
  lengths_differ,      // size from offset on in the source, limit in the destination
  not_whole_elements,  // size is no multiple of limit, the size of an element
};
struct RangeError {
  RangeProblem problem = RangeProblem::none;
  std::uint64_t offset_bytes = 0, size_bytes = 0, limit_bytes = 0;
  void describe(Text& text) const noexcept;  // one line: what, where, what would be right
};

struct BufferInfo {
  std::byte* address;
  std::size_t size_bytes, extents;
  // Bytes of extents with a valid copy in the tier; an extent may count in several.
  std::size_t valid_bytes[kTiers];
  std::size_t dirty_bytes, unbacked_bytes, pinned_bytes;
  Usage usage;
  std::uint64_t type_id;
  std::uint32_t age;  // epochs since the last use
};

inline constexpr unsigned kLatencyBuckets = 40;  // of 2^i ns and more

// Numbers since open() or as of now. resident + paged_out + unbacked == total whenever nothing is in flight.
struct BufferPagerStats {
  std::uint64_t buffers, extents, total_bytes;  // as of now; bytes as the user gave them
  std::uint64_t resident_bytes, paged_out_bytes,
      unbacked_bytes;                // host or device / elsewhere only / never written
  std::uint64_t tier_bytes[kTiers];  // valid copies
  std::uint64_t tier_used[kTiers], tier_limit[kTiers], tier_peak[kTiers];  // budgets; kNoLimit: none
  std::uint64_t pins, page_ins, implicit_page_ins, page_outs, zero_fills, clean_drops;
  std::uint64_t bytes_in, bytes_out;    // copied to the host; copied to the compressed tier or a file
  std::uint64_t device_in, device_out;  // bytes
  std::uint64_t evictions, refused_pinned, spoiled, failed_copies, waits, failed_purges;
  std::uint64_t crawls, crawled_extents, prefetches, requests, pending;
  std::uint32_t epoch;
  std::uint64_t page_in_ns[kLatencyBuckets];  // histogram of page-ins, by time
};

class BufferPager {
 public:
  BufferPager() noexcept = default;
  ~BufferPager() { close(); }
  BufferPager(const BufferPager&) = delete;
  BufferPager& operator=(const BufferPager&) = delete;

  // Once in the life of the object. bad_argument, no_memory, no_tier (the directory cannot be used).
  [[nodiscard]] Result open(const BufferPagerOptions& options) noexcept;
  // Ends the crawler, completes what was queued, and drops all buffers. No other call is in progress, nothing
  // that was pinned is used any more.
  void close() noexcept;
  [[nodiscard]] bool is_open() const noexcept { return is_open_; }

  // --- Buffers. Each success is a reference, given back by close_buffer().
  // A new buffer; its bytes read as zero and take no memory until they are written. With a name that exists:
  // bad_argument.
  [[nodiscard]] Result create(std::size_t size_bytes, const BufferOptions& options,
                              BufferHandle* handle) noexcept;
  // The buffer of that name, or a new one: *is_new. An existing one keeps its size; wrong_type when its type
  // is another one.
  [[nodiscard]] Result open_or_create(std::size_t size_bytes, const BufferOptions& options,
                                      BufferHandle* handle, bool* is_new) noexcept;
  [[nodiscard]] Result find(std::string_view name, BufferHandle* handle) noexcept;
  // Takes the name away; the buffer lives on with its references.
  [[nodiscard]] Result remove_name(std::string_view name) noexcept;
  // With the last reference the buffer goes; ranges still pinned stay until they are unpinned.
  [[nodiscard]] Result close_buffer(BufferHandle handle) noexcept;

  // --- Access.
  [[nodiscard]] PinnedRange pin(BufferHandle handle, const ByteRange& range, Access access) noexcept;
  // Exactly what was pinned.
  [[nodiscard]] Result unpin(BufferHandle handle, const ByteRange& range, Access access) noexcept;
  // Keeps device copies; *address is that of the first extent. Extents are not contiguous on the device:
  // device_address() says where each one is.
  [[nodiscard]] Result pin_device(BufferHandle handle, const ByteRange& range, Access access) noexcept;
  [[nodiscard]] Result unpin_device(BufferHandle handle, const ByteRange& range, Access access) noexcept;
  [[nodiscard]] Result device_address(BufferHandle handle, std::size_t offset_bytes,
                                      DeviceAddress* address) noexcept;

  // --- Moving: `operation` on each extent that the range touches; the first failure, after all were tried.
  [[nodiscard]] Result move(BufferHandle handle, const ByteRange& range, Operation operation,
                            Tier tier) noexcept;
  // Changes the size to one from 1 on. The first min(old, new) bytes keep their value in whatever tier they
  // are; what is new reads as zero. The address may change. pinned: something of it is pinned; busy: others
  // are in calls about it, or asynchronous ones are queued, for longer than a second or two.
  [[nodiscard]] Result resize(BufferHandle handle, std::size_t size_bytes) noexcept;
  // Sets every element of the range to `element` (1 byte or more). bad_argument, with *error (may be null):
  // the range lies outside, or is not a whole number of elements. Zeros take no memory where the range
  // covers whole extents that are not pinned. A failure leaves what was done so far.
  [[nodiscard]] Result fill(BufferHandle handle, const ByteRange& range, std::span<const std::byte> element,
                            RangeError* error) noexcept;
  // Copies as memmove() does, within a buffer too, one extent at a time. bad_argument, with *error: a range
  // lies outside, or the whole of both is asked for and one is longer. A failure leaves what was done so far.
  [[nodiscard]] Result copy(const CopyRanges& what, RangeError* error) noexcept;
  // The same for many buffers, so that many small ones leave with one write.
  [[nodiscard]] Result move_many(std::span<const BufferHandle> handles, Operation operation,
                                 Tier tier) noexcept;
  // As move(), by a worker. *ticket is given back by wait(), or by release_ticket(); nullptr: nobody waits.
  [[nodiscard]] Result move_async(BufferHandle handle, const ByteRange& range, const AsyncMove& what,
                                  Ticket* ticket) noexcept;
  // A page-in at low priority, without a ticket.
  [[nodiscard]] Result prefetch(BufferHandle handle, const ByteRange& range) noexcept;
  [[nodiscard]] Result wait(Ticket ticket) noexcept {
    return is_in_child() ? Result::in_child : requests_.wait(ticket);
  }
  [[nodiscard]] bool is_done(Ticket ticket) noexcept { return is_in_child() || requests_.is_done(ticket); }
  [[nodiscard]] Result cancel(Ticket ticket) noexcept {
    return is_in_child() ? Result::in_child : requests_.cancel(ticket);
  }
  void release_ticket(Ticket ticket) noexcept {
    if (!is_in_child()) requests_.release(ticket);
  }
  void wait_all() noexcept {
    if (!is_in_child()) requests_.wait_all();
  }

  // --- Time and reclaim.
  // Gives back memory of the compressed tier and space of page files that hold nothing, at once instead of
  // little by little. Returns bytes.
  std::size_t compact() noexcept { return is_in_child() ? 0 : store_.trim(); }
  std::uint32_t advance_epoch() noexcept { return epoch_.fetch_add(1, std::memory_order_relaxed) + 1; }
  [[nodiscard]] std::uint32_t epoch() const noexcept { return epoch_.load(std::memory_order_relaxed); }
  // Looks at `percent` (1..100) of the resident extents, at least kCrawlExtentsMin, in the order of the
  // policy, and pages out what the trigger wants, as long as it wants anything. Returns bytes that left.
  std::size_t crawl(unsigned percent) noexcept;
  // Moves out at least `bytes` of the host tier in the order of the policy, whatever the trigger says, as far
  // as there is anything that can go. Returns bytes that left.
  std::size_t reclaim(std::uint64_t bytes) noexcept;
  // A thread that crawls every `interval_ms` (from 1), and at once when the use of the host's or the device's
  // budget rises over a mark of the trigger (start, low memory, severe). Calling it again changes the
  // numbers.
  [[nodiscard]] Result start_crawler(unsigned interval_ms, unsigned percent) noexcept;
  void stop_crawler() noexcept;  // returns when it has ended
  // After the limit of a budget was changed: the crawler need not wait for the next charge.
  void note_limit(Tier tier) noexcept {
    if (!is_in_child() && crawler_running_.load(std::memory_order_relaxed) != 0) watch_pressure(tier);
  }

  [[nodiscard]] Budget& host_budget() noexcept { return host_budget_; }
  [[nodiscard]] Budget& device_budget() noexcept { return device_budget_; }
  [[nodiscard]] Budget& file_budget() noexcept { return file_budget_; }
  // Counts slots, so that their owners are known; the memory of the tier is bounded by
  // set_compressed_limit().
  [[nodiscard]] Budget& compressed_budget() noexcept { return compressed_budget_; }
  [[nodiscard]] Budget& budget_of(Tier tier) noexcept;
  [[nodiscard]] Result set_compressed_limit(std::uint64_t bytes) noexcept;
  [[nodiscard]] std::uint32_t pressure(Tier tier) noexcept;  // in millionths
  [[nodiscard]] SystemMonitor::Sample sample_system() noexcept { return monitor_.sample(); }

  [[nodiscard]] bool has_tier(Tier tier) const noexcept;
  [[nodiscard]] std::size_t extent_bytes() const noexcept { return options_.extent_bytes; }
  [[nodiscard]] Result size_of(BufferHandle handle, std::size_t* size_bytes) noexcept;

  [[nodiscard]] Result info(BufferHandle handle, BufferInfo* info) noexcept;
  [[nodiscard]] BufferPagerStats stats() noexcept;
  [[nodiscard]] StoreStats store_stats() const noexcept { return store_.stats(); }
  // Walks all buffers: invariants of every extent, and the counters against a recount. For tests: nothing is
  // in flight.
  [[nodiscard]] bool validate() noexcept;

 private:
  friend class Mover;
  friend class Requests;

  struct Use;      // holds a buffer for a scope
  struct Span;     // a checked range
  struct Pattern;  // what fill() repeats

  static constexpr std::uint32_t kAnyGeneration = ~std::uint32_t{0};
  static constexpr unsigned kNameBuckets = 1u << 14;
  static constexpr unsigned kParkingLots = 64;
  static constexpr std::size_t kCrawlExtentsMin = 10;

  // Threads that wait for the end of a flight of an extent that hashes here.
  struct alignas(64) ParkingLot {
    std::atomic<std::uint32_t> sequence{0};
    std::atomic<std::uint32_t> waiters{0};
  };
  enum Counter : unsigned {
    kPageIns,
    kImplicitPageIns,
    kPageOuts,
    kZeroFills,
    kCleanDrops,
    kBytesIn,
    kBytesOut,
    kDeviceIn,
    kDeviceOut,
    kEvictions,
    kRefusedPinned,
    kSpoiled,
    kFailedCopies,
    kWaits,
    kFailedPurges,
    kCrawls,
    kCrawledExtents,
    kPrefetches,
    kCounters
  };

  // buffer_pager.cpp
  [[nodiscard]] Result check_options(const BufferPagerOptions& options) const noexcept;
  [[nodiscard]] Result open_store(const BufferPagerOptions& options) noexcept;
  [[nodiscard]] bool is_in_child() const noexcept {
    return forks_.load(std::memory_order_relaxed) != fork_count_;
  }
  [[nodiscard]] Result make_buffer(std::size_t size_bytes, const BufferOptions& options,
                                   Buffer** made) noexcept;
  void set_extents(Buffer& buffer, std::uint32_t first) noexcept;
  void set_tags(Buffer& buffer, BudgetTag tag) noexcept;
  void end_buffer(Buffer& buffer) noexcept;
  void free_device_copies() noexcept;
  [[nodiscard]] Buffer** name_slot(std::string_view name, std::uint64_t hash) noexcept;
  void unlink_name(Buffer& buffer) noexcept;
  [[nodiscard]] BufferHandle handle_of(const Buffer& buffer) const noexcept;
  [[nodiscard]] Buffer* record_of(BufferHandle handle) noexcept;
  [[nodiscard]] static bool add_user(Buffer& buffer) noexcept;
  [[nodiscard]] bool hold(Buffer& buffer, std::uint32_t generation) noexcept;
  [[nodiscard]] bool try_hold(Buffer& buffer, std::uint32_t generation) noexcept;
  void wait_changed(Buffer& buffer) noexcept;
  void let_go(Buffer& buffer) noexcept;

  // buffer_access.cpp
  [[nodiscard]] Result pin_extent(Extent& extent, Access access, Tier tier, bool may_page_in) noexcept;
  [[nodiscard]] Result pin_extent_slow(Extent& extent, Access access, Tier tier, bool may_page_in) noexcept;
  bool unpin_extent(Extent& extent, Access access, Tier tier) noexcept;
  [[nodiscard]] Result pin_range(Buffer& buffer, const ByteRange& range, Access access, Tier tier) noexcept;
  [[nodiscard]] Result unpin_any(BufferHandle handle, const ByteRange& range, Access access,
                                 Tier tier) noexcept;
  [[nodiscard]] Result move_range(Buffer& buffer, const ByteRange& range, const Move& what) noexcept;
  [[nodiscard]] Result move_with(Mover& mover, Buffer& buffer, const ByteRange& range,
                                 const Move& what) noexcept;
  [[nodiscard]] std::size_t shared_bytes(const Request& request) const noexcept;
  [[nodiscard]] Result move_extents(Mover& mover, std::span<Extent> extents, const Move& what) noexcept;
  [[nodiscard]] Result move_extent(Mover& mover, Extent& extent, const Move& what, Result* earlier) noexcept;
  [[nodiscard]] bool covers(const Buffer& buffer, const ByteRange& range, std::uint32_t* first,
                            std::uint32_t* last) const noexcept;
  void touch(Extent& extent, Tier tier) noexcept;
  void touch_slow(VictimItem& item, Tier tier) noexcept;
  [[nodiscard]] UseLog& use_log(Tier tier) noexcept { return use_logs_[tier == Tier::host ? 0 : 1]; }
  [[nodiscard]] Trigger& trigger_of(Tier tier) noexcept { return triggers_[tier == Tier::host ? 0 : 1]; }
  [[nodiscard]] Victims& victims_of(Tier tier) noexcept {
    return tier == Tier::host ? *host_victims_ : *device_victims_;
  }
  void wait_flight(Extent& extent) noexcept;
  void wake_flight(Extent& extent) noexcept;
  void announce_release() noexcept;
  void forget_memory(std::byte* address, std::size_t size_bytes) noexcept;

  // buffer_copy.cpp
  [[nodiscard]] Result find_range(BufferHandle handle, const ByteRange& range, Span* found,
                                  RangeError* error) noexcept;
  [[nodiscard]] Result fill_part(BufferHandle handle, const ByteRange& part, const Pattern& pattern) noexcept;
  [[nodiscard]] Result copy_part(const CopyRanges& part) noexcept;
  [[nodiscard]] Result copy_by_bounce(const CopyRanges& part) noexcept;

  // buffer_resize.cpp
  struct Resizing;
  [[nodiscard]] static bool try_change(Buffer& buffer) noexcept;
  [[nodiscard]] Result begin_change(Buffer& buffer, const Extent* ours) noexcept;
  void end_change(Buffer& buffer) noexcept;
  [[nodiscard]] Result pin_seam(Resizing& work) noexcept;
  [[nodiscard]] Result take_room(Resizing& work) noexcept;
  void cut_off(Resizing& work) noexcept;
  void move_records(Resizing& work) noexcept;
  void move_memory(Resizing& work) noexcept;
  void change_seam(Resizing& work) noexcept;
  void set_victim_sizes(Buffer& buffer) noexcept;
  [[nodiscard]] Result change_size(Resizing& work) noexcept;

  // buffer_reclaim.cpp
  [[nodiscard]] Result charge(Tier tier, const Buffer& buffer, std::uint64_t needed) noexcept;
  [[nodiscard]] Result charge_or_reclaim(Tier tier, const Buffer& buffer, std::uint64_t needed) noexcept;
  void discharge(Tier tier, const Buffer& buffer, std::uint64_t bytes) noexcept;
  std::size_t reclaim_tier(Tier tier, std::uint64_t bytes) noexcept;
  struct Sweep {  // one reclaim or crawl of a tier
    Tier tier = Tier::host;
    VictimList held;  // taken out of the policy; their buffers are held
    std::size_t freed_bytes = 0;
    unsigned looked = 0;  // by the last evict_some()
  };
  void evict_some(Sweep& sweep, std::uint64_t bytes, unsigned count_max, TriggerInput* input) noexcept;
  void settle(Sweep& sweep, bool all) noexcept;
  std::size_t crawl_tier(Tier tier, std::size_t left) noexcept;
  void queue_victim(Extent& extent) noexcept;    // brings the policies in line with the state
  void dequeue_victim(Extent& extent) noexcept;  // takes it out of both
  [[nodiscard]] Tier spill_tier(Tier tier) const noexcept;

  // buffer_crawler.cpp
  [[nodiscard]] unsigned passed_marks(Tier tier) noexcept;
  void watch_pressure(Tier tier) noexcept;
  void wake_crawler() noexcept;
  void crawl_until_calm() noexcept;
  void run_crawler() noexcept;

  void count(Counter counter, std::uint64_t amount = 1) noexcept {
    counters_[counter].fetch_add(amount, std::memory_order_relaxed);
  }
  void account(const Extent& extent, std::uint8_t before, std::uint8_t after) noexcept;
  void count_latency(std::uint64_t started_ns) noexcept;

  bool is_open_ = false;
  bool was_open_ = false;
  // Counts the forks that this process is the child of. The one global of this layer's buffers.
  static inline constinit std::atomic<std::uint32_t> forks_{0};
  std::uint32_t fork_count_ = 0;  // of the process when the pager was opened
  BufferPagerOptions options_;
  DeviceMemory device_{};
  unsigned extent_shift_ = 16;

  Store store_;
  Budget host_budget_, compressed_budget_, device_budget_, file_budget_;
  SystemMonitor monitor_;
  Space pages_, extents_, buffers_;
  PartTable part_table_;
  MoverPool movers_;
  Requests requests_{*this};

  std::atomic<std::uint32_t> known_buffers_{0};  // records below this index may be read

  os::Mutex names_lock_;
  Buffer** names_ = nullptr;  // kNameBuckets chains
  List<Buffer, BufferTag> all_;

  os::Mutex victims_lock_;  // guards the policies and all items in extents
  UseLog use_logs_[2];      // of the host and of the device
  Victims* host_victims_ = nullptr;
  Victims* device_victims_ = nullptr;
  alignas(Victims) std::byte victims_memory_[2][sizeof(Victims)];
  std::atomic<std::uint64_t> compressed_limit_{kNoLimit};
  os::Mutex trigger_lock_;  // guards both: of the host and of the device
  Trigger triggers_[2] = {Trigger{TriggerKind::hybrid}, Trigger{TriggerKind::hybrid}};

  ParkingLot lots_[kParkingLots];
  ParkingLot released_;                    // host memory came free
  ParkingLot changed_;                     // a resize ended
  std::atomic<std::uint32_t> leaving_{0};  // extents on their way out of the host
  std::atomic<std::uint32_t> epoch_{0};
  std::atomic<std::uint64_t> births_{0};

  // The crawler. The word is odd when it has to end.
  std::atomic<std::uint32_t> crawler_word_{0}, crawler_running_{0};
  std::atomic<unsigned> crawler_interval_ms_{1000}, crawler_percent_{10};
  std::atomic<unsigned> known_marks_[2] = {};  // passed by the host and by the device, as far as it was told
  std::atomic<bool> crawler_is_urgent_{false};
  os::Mutex crawler_lock_;  // guards starting and stopping

  std::atomic<std::uint64_t> counters_[kCounters] = {};
  std::atomic<std::uint64_t> latency_[kLatencyBuckets] = {};
  std::atomic<std::uint64_t> total_bytes_{0}, extent_total_{0}, buffer_total_{0};
  std::atomic<std::uint64_t> resident_bytes_{0}, paged_out_bytes_{0}, unbacked_bytes_{0};
  std::atomic<std::uint64_t> tier_bytes_[kTiers] = {};
};

}  // namespace glebe::paging
