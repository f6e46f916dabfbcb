// glebe in C++: pageable buffers, pins, tickets and budgets that end with their scope, and typed views with a
// codec. Header-only over paging.h, which says what each call means, what it may answer and what forks do.
//
// Nothing here throws: what can fail answers with a Result, or with an object that is empty and holds one. A
// Pager outlives what was made by it. Objects are movable; one object is used by one thread at a time, the
// pager and buffers behind them by any number of threads. Sizes and offsets are bytes unless a name says
// elements.
#pragma once

#include <glebe/paging.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

namespace glebe {

using Result = glebe_result;
[[nodiscard]] inline const char* text_of(Result result) noexcept { return glebe_result_text(result); }

enum class Tier : int {
  host = glebe_tier_host,
  compressed = glebe_tier_compressed,
  device = glebe_tier_device,
  file = glebe_tier_file,
};
enum class Access : int { read = glebe_read, write = glebe_write };
enum class Usage : std::uint32_t {
  static_use = glebe_usage_static,
  dynamic_use = glebe_usage_dynamic,
  streaming = glebe_usage_streaming,
  fixed = glebe_usage_fixed,
};

// A range of a buffer; size_bytes 0: to the end.
struct ByteRange {
  std::size_t offset_bytes = 0;
  std::size_t size_bytes = 0;
};

// Keeps a range in host memory for a scope. Empty when it could not be had: then result() says why.
class Pin {
 public:
  Pin() noexcept = default;
  Pin(glebe_pager* pager, glebe_buffer buffer, ByteRange range, Access access) noexcept
      : pager_(pager), buffer_(buffer), range_(range), access_(static_cast<glebe_access>(access)) {
    void* data = nullptr;
    result_ = glebe_buffer_pin(pager, buffer, range.offset_bytes, range.size_bytes, access_, &data);
    data_ = static_cast<std::byte*>(data);
    if (data_ == nullptr || range_.size_bytes != 0) return;
    glebe_buffer_info info{};
    if (glebe_buffer_get_info(pager, buffer, &info) == glebe_ok) {
      range_.size_bytes = static_cast<std::size_t>(info.size) - range.offset_bytes;
    }
  }
  ~Pin() { release(); }
  Pin(Pin&& other) noexcept
      : pager_(other.pager_),
        buffer_(other.buffer_),
        range_(other.range_),
        access_(other.access_),
        data_(std::exchange(other.data_, nullptr)),
        result_(std::exchange(other.result_, glebe_bad_handle)) {}
  Pin& operator=(Pin&& other) noexcept {
    if (this != &other) {
      release();
      pager_ = other.pager_;
      buffer_ = other.buffer_;
      range_ = other.range_;
      access_ = other.access_;
      data_ = std::exchange(other.data_, nullptr);
      result_ = std::exchange(other.result_, glebe_bad_handle);
    }
    return *this;
  }
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;

  [[nodiscard]] explicit operator bool() const noexcept { return data_ != nullptr; }
  [[nodiscard]] Result result() const noexcept { return result_; }
  [[nodiscard]] bool is_writable() const noexcept { return data_ != nullptr && access_ == glebe_write; }
  [[nodiscard]] std::size_t size_bytes() const noexcept { return data_ != nullptr ? range_.size_bytes : 0; }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data_, size_bytes()}; }
  // Empty for a pin that only reads: what is written through it would be lost.
  [[nodiscard]] std::span<std::byte> writable() const noexcept {
    return is_writable() ? std::span<std::byte>{data_, size_bytes()} : std::span<std::byte>{};
  }
  // Ends the pin before its scope does.
  void release() noexcept {
    if (data_ == nullptr) return;
    static_cast<void>(glebe_buffer_unpin(pager_, buffer_, range_.offset_bytes, range_.size_bytes, access_));
    data_ = nullptr;
  }

 private:
  glebe_pager* pager_ = nullptr;
  glebe_buffer buffer_ = 0;
  ByteRange range_;
  glebe_access access_ = glebe_read;
  std::byte* data_ = nullptr;
  Result result_ = glebe_bad_handle;
};

// An asynchronous move. Destroyed without wait() it lets the operation go on.
class Ticket {
 public:
  Ticket() noexcept = default;
  Ticket(glebe_pager* pager, glebe_ticket ticket, Result result) noexcept
      : pager_(pager), ticket_(ticket), result_(result) {}
  ~Ticket() { release(); }
  Ticket(Ticket&& other) noexcept
      : pager_(other.pager_), ticket_(std::exchange(other.ticket_, 0)), result_(other.result_) {}
  Ticket& operator=(Ticket&& other) noexcept {
    if (this != &other) {
      release();
      pager_ = other.pager_;
      ticket_ = std::exchange(other.ticket_, 0);
      result_ = other.result_;
    }
    return *this;
  }
  Ticket(const Ticket&) = delete;
  Ticket& operator=(const Ticket&) = delete;

  // The result of the operation; again and again the same.
  Result wait() noexcept {
    if (ticket_ != 0) result_ = glebe_ticket_wait(pager_, std::exchange(ticket_, 0));
    return result_;
  }
  [[nodiscard]] bool is_done() const noexcept {
    return ticket_ == 0 || glebe_ticket_is_done(pager_, ticket_) != 0;
  }
  // glebe_busy: it has begun, wait() for it.
  Result cancel() noexcept { return ticket_ == 0 ? glebe_busy : glebe_ticket_cancel(pager_, ticket_); }

 private:
  void release() noexcept {
    if (ticket_ != 0) glebe_ticket_release(pager_, std::exchange(ticket_, 0));
  }

  glebe_pager* pager_ = nullptr;
  glebe_ticket ticket_ = 0;
  Result result_ = glebe_bad_handle;
};

// A reference to a buffer, given back at the end. Empty when it could not be had: then result() says why.
class PagedBuffer {
 public:
  PagedBuffer() noexcept = default;
  PagedBuffer(glebe_pager* pager, glebe_buffer handle, Result result) noexcept
      : pager_(pager), handle_(handle), result_(result) {}
  ~PagedBuffer() { close(); }
  PagedBuffer(PagedBuffer&& other) noexcept
      : pager_(other.pager_),
        handle_(std::exchange(other.handle_, 0)),
        result_(std::exchange(other.result_, glebe_bad_handle)) {}
  PagedBuffer& operator=(PagedBuffer&& other) noexcept {
    if (this != &other) {
      close();
      pager_ = other.pager_;
      handle_ = std::exchange(other.handle_, 0);
      result_ = std::exchange(other.result_, glebe_bad_handle);
    }
    return *this;
  }
  PagedBuffer(const PagedBuffer&) = delete;
  PagedBuffer& operator=(const PagedBuffer&) = delete;

  [[nodiscard]] explicit operator bool() const noexcept { return handle_ != 0; }
  [[nodiscard]] Result result() const noexcept { return result_; }
  [[nodiscard]] glebe_buffer handle() const noexcept { return handle_; }
  [[nodiscard]] glebe_pager* pager() const noexcept { return pager_; }
  void close() noexcept {
    if (handle_ != 0) static_cast<void>(glebe_buffer_close(pager_, std::exchange(handle_, 0)));
  }

  [[nodiscard]] Pin pin(Access access, ByteRange range = {}) const noexcept {
    return Pin(pager_, handle_, range, access);
  }
  [[nodiscard]] Result read(std::size_t offset_bytes, std::span<std::byte> to) const noexcept {
    return glebe_buffer_read(pager_, handle_, offset_bytes, to.data(), to.size());
  }
  [[nodiscard]] Result write(std::size_t offset_bytes, std::span<const std::byte> from) const noexcept {
    return glebe_buffer_write(pager_, handle_, offset_bytes, from.data(), from.size());
  }

  // Elements of any size from 1 byte on; *error, if not null, says what was wrong with the range.
  [[nodiscard]] Result fill(ByteRange range, std::span<const std::byte> element,
                            glebe_range_error* error = nullptr) const noexcept {
    return glebe_buffer_fill(pager_, handle_, range.offset_bytes, range.size_bytes, element.data(),
                             element.size(), error);
  }
  [[nodiscard]] Result clear(ByteRange range = {}, glebe_range_error* error = nullptr) const noexcept {
    return glebe_buffer_clear(pager_, handle_, range.offset_bytes, range.size_bytes, error);
  }
  // `range` of `from`, a buffer of the same pager, to the bytes from `offset_bytes` on here.
  [[nodiscard]] Result copy_from(const PagedBuffer& from, ByteRange range, std::size_t offset_bytes = 0,
                                 glebe_range_error* error = nullptr) const noexcept {
    if (from.pager_ != pager_) return glebe_bad_argument;
    const glebe_copy_ranges what{from.handle_, handle_, range.offset_bytes, offset_bytes, range.size_bytes};
    return glebe_buffer_copy(pager_, &what, error);
  }
  // Keeps min(old, new) bytes; the address may change, nothing may be pinned.
  [[nodiscard]] Result resize(std::size_t size_bytes) const noexcept {
    return glebe_buffer_resize(pager_, handle_, size_bytes);
  }

  // A copy in the tier, or the only copy there.
  [[nodiscard]] Result page_to(Tier tier, ByteRange range = {}) const noexcept {
    return move(glebe_page, tier, range);
  }
  [[nodiscard]] Result swap_to(Tier tier, ByteRange range = {}) const noexcept {
    return move(glebe_swap, tier, range);
  }
  [[nodiscard]] Result make_resident(ByteRange range = {}) const noexcept {
    return move(glebe_page, Tier::host, range);
  }
  [[nodiscard]] Result evict(ByteRange range = {}) const noexcept {
    return move(glebe_evict, Tier::host, range);
  }
  [[nodiscard]] Result synchronise(ByteRange range = {}) const noexcept {
    return move(glebe_synchronise, Tier::device, range);
  }
  [[nodiscard]] Result invalidate(Tier tier, ByteRange range = {}) const noexcept {
    return move(glebe_invalidate, tier, range);
  }
  [[nodiscard]] Result discard(ByteRange range = {}) const noexcept {
    return move(glebe_discard, Tier::host, range);
  }
  [[nodiscard]] Result move(glebe_operation operation, Tier tier, ByteRange range = {}) const noexcept {
    return glebe_buffer_move(pager_, handle_, range.offset_bytes, range.size_bytes, operation,
                             static_cast<glebe_tier>(tier));
  }

  [[nodiscard]] Ticket page_to_async(Tier tier, ByteRange range = {}) const noexcept {
    return move_async(glebe_page, tier, range);
  }
  [[nodiscard]] Ticket swap_to_async(Tier tier, ByteRange range = {}) const noexcept {
    return move_async(glebe_swap, tier, range);
  }
  [[nodiscard]] Ticket move_async(glebe_operation operation, Tier tier, ByteRange range = {}) const noexcept {
    glebe_ticket ticket = 0;
    const Result result = glebe_buffer_move_async(pager_, handle_, range.offset_bytes, range.size_bytes,
                                                  operation, static_cast<glebe_tier>(tier), &ticket);
    return Ticket(pager_, ticket, result);
  }
  // The same with a callback instead of a ticket; see glebe_completion for what it may do.
  [[nodiscard]] Result move_notify(glebe_operation operation, Tier tier, const glebe_completion& completion,
                                   ByteRange range = {}) const noexcept {
    return glebe_buffer_move_notify(pager_, handle_, range.offset_bytes, range.size_bytes, operation,
                                    static_cast<glebe_tier>(tier), &completion, nullptr);
  }
  Result prefetch(ByteRange range = {}) const noexcept {
    return glebe_buffer_prefetch(pager_, handle_, range.offset_bytes, range.size_bytes);
  }

  // All zero when the buffer is empty.
  [[nodiscard]] glebe_buffer_info info() const noexcept {
    glebe_buffer_info info{};
    if (handle_ != 0) static_cast<void>(glebe_buffer_get_info(pager_, handle_, &info));
    return info;
  }

 private:
  glebe_pager* pager_ = nullptr;
  glebe_buffer handle_ = 0;
  Result result_ = glebe_bad_handle;
};

// What may lie in a buffer: it is moved by its bytes, and all zero is a value of it.
template <typename T>
concept Pageable = std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>;

// A codec for elements of T, as a type: `encode` returns the bytes written, 0 to refuse; `decode` fills all
// of `to` or returns false. Spans of whole elements; an element never lies across two extents when its size
// divides the extent's. Static functions: a buffer outlives whoever made it.
template <typename C, typename T>
concept ElementCodec = requires(std::span<const T> elements, std::span<T> to, std::span<std::byte> room,
                                std::span<const std::byte> coded) {
  { C::encode(elements, room) }
  noexcept->std::same_as<std::size_t>;
  { C::decode(coded, to) }
  noexcept->std::same_as<bool>;
};

// A number for a type that is the same in every translation unit and differs between types whose names
// differ; not kept between builds.
template <typename T>
[[nodiscard]] constexpr std::uint64_t type_id() noexcept {
  const char* name = __PRETTY_FUNCTION__;
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (; *name != '\0'; ++name) hash = (hash ^ static_cast<unsigned char>(*name)) * 0x100000001b3u;
  return hash | 1;
}

// The table of C for a codec of elements.
template <Pageable T, ElementCodec<T> Codec>
[[nodiscard]] glebe_buffer_codec element_codec() noexcept {
  glebe_buffer_codec codec{};
  codec.encode = [](void*, const void* from, std::size_t size, void* to,
                    std::size_t capacity) -> std::size_t {
    if (size % sizeof(T) != 0) return 0;
    return Codec::encode({static_cast<const T*>(from), size / sizeof(T)},
                         {static_cast<std::byte*>(to), capacity});
  };
  codec.decode = [](void*, const void* from, std::size_t size, void* to, std::size_t capacity) -> int {
    if (capacity % sizeof(T) != 0) return 0;
    return Codec::decode({static_cast<const std::byte*>(from), size},
                         {static_cast<T*>(to), capacity / sizeof(T)})
               ? 1
               : 0;
  };
  return codec;
}

// A buffer seen as elements of T. It holds a reference; views of one buffer see the same bytes.
template <Pageable T>
class TypedView {
 public:
  // A pinned range of elements.
  class Elements {
   public:
    explicit Elements(Pin pin) noexcept : pin_(std::move(pin)) {}
    [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(pin_); }
    [[nodiscard]] Result result() const noexcept { return pin_.result(); }
    [[nodiscard]] std::span<const T> read() const noexcept {
      return {reinterpret_cast<const T*>(pin_.bytes().data()), pin_.size_bytes() / sizeof(T)};
    }
    // Empty for a pin that only reads.
    [[nodiscard]] std::span<T> write() const noexcept {
      return {reinterpret_cast<T*>(pin_.writable().data()), pin_.writable().size() / sizeof(T)};
    }

   private:
    Pin pin_;
  };

  TypedView() noexcept = default;
  explicit TypedView(PagedBuffer buffer) noexcept : buffer_(std::move(buffer)) {
    if (!buffer_) return;
    const glebe_buffer_info info = buffer_.info();
    is_right_ = info.type_id == type_id<T>() && info.size % sizeof(T) == 0;
    element_count_ = is_right_ ? static_cast<std::size_t>(info.size) / sizeof(T) : 0;
  }

  // Whether there is a buffer and it holds elements of T; if not, result() says what is wrong.
  [[nodiscard]] explicit operator bool() const noexcept { return is_right_; }
  [[nodiscard]] Result result() const noexcept {
    return buffer_ ? (is_right_ ? glebe_ok : glebe_wrong_type) : buffer_.result();
  }
  [[nodiscard]] std::size_t element_count() const noexcept { return element_count_; }
  [[nodiscard]] const PagedBuffer& buffer() const noexcept { return buffer_; }

  // `count` elements from `first` on; 0: to the end.
  [[nodiscard]] Elements pin(Access access, std::size_t first = 0, std::size_t count = 0) const noexcept {
    if (!is_right_ || first > element_count_ || count > element_count_ - first) return Elements(Pin());
    return Elements(buffer_.pin(access, {first * sizeof(T), count * sizeof(T)}));
  }

 private:
  PagedBuffer buffer_;
  bool is_right_ = false;
  std::size_t element_count_ = 0;
};

// How a buffer is made.
struct BufferOptions {
  std::string name;  // empty: none
  Usage usage = Usage::static_use;
  std::uint32_t tag = 0;  // of the host budget
};

// A pager; see paging.h. Options start with the defaults: PagerOptions options; options.host_bytes = ...
struct PagerOptions : glebe_pager_options {
  PagerOptions() noexcept : glebe_pager_options() {
    struct_bytes = sizeof(glebe_pager_options);
    static_cast<void>(glebe_pager_options_init(this));
  }
};

class Pager {
 public:
  // Empty when the options or the system do not allow it: then result() says why.
  explicit Pager(const PagerOptions& options = {}) noexcept : result_(glebe_pager_new(&options, &pager_)) {}
  ~Pager() { glebe_pager_free(pager_); }
  Pager(Pager&& other) noexcept
      : pager_(std::exchange(other.pager_, nullptr)),
        result_(std::exchange(other.result_, glebe_bad_handle)) {}
  Pager& operator=(Pager&& other) noexcept {
    if (this != &other) {
      glebe_pager_free(pager_);
      pager_ = std::exchange(other.pager_, nullptr);
      result_ = std::exchange(other.result_, glebe_bad_handle);
    }
    return *this;
  }
  Pager(const Pager&) = delete;
  Pager& operator=(const Pager&) = delete;

  [[nodiscard]] explicit operator bool() const noexcept { return pager_ != nullptr; }
  [[nodiscard]] Result result() const noexcept { return result_; }
  [[nodiscard]] glebe_pager* handle() const noexcept { return pager_; }

  [[nodiscard]] PagedBuffer create(std::size_t size_bytes, const BufferOptions& options = {}) noexcept {
    return make(size_bytes, options, 0, nullptr, false);
  }
  // The buffer of options.name, or a new one.
  [[nodiscard]] PagedBuffer open(std::size_t size_bytes, const BufferOptions& options) noexcept {
    return make(size_bytes, options, 0, nullptr, true);
  }
  [[nodiscard]] PagedBuffer find(const std::string& name) noexcept {
    glebe_buffer handle = 0;
    const Result result = glebe_buffer_find(pager_, name.c_str(), &handle);
    return PagedBuffer(pager_, handle, result);
  }
  Result remove_name(const std::string& name) noexcept {
    return glebe_buffer_remove_name(pager_, name.c_str());
  }

  // Elements of T, all zero bytes at first, created or opened by name.
  template <Pageable T>
  [[nodiscard]] TypedView<T> create_view(std::size_t element_count,
                                         const BufferOptions& options = {}) noexcept {
    if (element_count > SIZE_MAX / sizeof(T)) return TypedView<T>();
    return TypedView<T>(
        make(element_count * sizeof(T), options, type_id<T>(), nullptr, !options.name.empty()));
  }
  // The same; what leaves memory is encoded by the codec.
  template <Pageable T, ElementCodec<T> Codec>
  [[nodiscard]] TypedView<T> create_view(std::size_t element_count,
                                         const BufferOptions& options = {}) noexcept {
    if (element_count > SIZE_MAX / sizeof(T)) return TypedView<T>();
    const glebe_buffer_codec codec = element_codec<T, Codec>();
    return TypedView<T>(
        make(element_count * sizeof(T), options, type_id<T>(), &codec, !options.name.empty()));
  }

  std::uint32_t advance_epoch() noexcept { return glebe_pager_advance_epoch(pager_); }
  std::uint64_t crawl(std::uint32_t percent) noexcept { return glebe_pager_crawl(pager_, percent); }
  std::uint64_t reclaim(std::uint64_t bytes) noexcept { return glebe_pager_reclaim(pager_, bytes); }
  Result start_crawler(std::uint32_t interval_ms, std::uint32_t percent) noexcept {
    return glebe_pager_start_crawler(pager_, interval_ms, percent);
  }
  void stop_crawler() noexcept { glebe_pager_stop_crawler(pager_); }
  void wait_all() noexcept { glebe_pager_wait_all(pager_); }
  Result set_limit(Tier tier, std::uint64_t bytes) noexcept {
    return glebe_pager_set_limit(pager_, static_cast<glebe_tier>(tier), bytes);
  }
  [[nodiscard]] std::uint32_t pressure(Tier tier) noexcept {
    return glebe_pager_pressure(pager_, static_cast<glebe_tier>(tier));
  }
  [[nodiscard]] glebe_budget* budget(Tier tier) noexcept {
    return glebe_pager_budget(pager_, static_cast<glebe_tier>(tier));
  }
  [[nodiscard]] glebe_pager_stats stats() noexcept {
    glebe_pager_stats stats{};
    stats.struct_bytes = sizeof stats;
    static_cast<void>(glebe_pager_get_stats(pager_, &stats));
    return stats;
  }

 private:
  PagedBuffer make(std::size_t size_bytes, const BufferOptions& options, std::uint64_t type,
                   const glebe_buffer_codec* codec, bool may_exist) noexcept {
    glebe_buffer_options converted{};
    converted.struct_bytes = sizeof converted;
    converted.name = options.name.empty() ? nullptr : options.name.c_str();
    converted.usage = static_cast<std::uint32_t>(options.usage);
    converted.tag = options.tag;
    converted.type_id = type;
    converted.codec = codec;
    glebe_buffer handle = 0;
    const Result result = may_exist ? glebe_buffer_open(pager_, size_bytes, &converted, &handle, nullptr)
                                    : glebe_buffer_new(pager_, size_bytes, &converted, &handle);
    return PagedBuffer(pager_, handle, result);
  }

  glebe_pager* pager_ = nullptr;
  Result result_ = glebe_bad_handle;
};

// A budget ledger of one's own; see paging.h. Empty when label, limit, action or callbacks make no sense.
class Budget {
 public:
  explicit Budget(const std::string& label, std::uint64_t limit_bytes,
                  glebe_budget_action action = glebe_budget_enforce,
                  const glebe_budget_callbacks& callbacks = {}) noexcept
      : result_(glebe_budget_new(label.c_str(), limit_bytes, action, &callbacks, &budget_)) {}
  ~Budget() { glebe_budget_free(budget_); }
  Budget(Budget&& other) noexcept : budget_(std::exchange(other.budget_, nullptr)), result_(other.result_) {}
  Budget& operator=(Budget&&) = delete;
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  [[nodiscard]] explicit operator bool() const noexcept { return budget_ != nullptr; }
  [[nodiscard]] glebe_budget_result result() const noexcept { return result_; }
  [[nodiscard]] glebe_budget* handle() const noexcept { return budget_; }

 private:
  glebe_budget* budget_ = nullptr;
  glebe_budget_result result_ = glebe_budget_bad_argument;
};

// The error as a line of text.
[[nodiscard]] inline std::string text_of(const glebe_budget_error& error) {
  char buffer[512];
  return std::string(buffer, glebe_budget_error_text(&error, buffer, sizeof buffer));
}

// Bytes of a budget for a scope, given back at the end.
class Charge {
 public:
  Charge() noexcept = default;
  // Empty when the budget refuses; error() is set then.
  Charge(glebe_budget* budget, std::uint32_t tag, std::uint64_t size_bytes) noexcept
      : budget_(budget), tag_(tag), size_bytes_(size_bytes) {
    if (glebe_budget_charge(budget, tag, size_bytes, &error_) != glebe_budget_ok) budget_ = nullptr;
  }
  ~Charge() { release(); }
  Charge(Charge&& other) noexcept
      : budget_(std::exchange(other.budget_, nullptr)),
        tag_(other.tag_),
        size_bytes_(other.size_bytes_),
        error_(other.error_) {}
  Charge& operator=(Charge&& other) noexcept {
    if (this != &other) {
      release();
      budget_ = std::exchange(other.budget_, nullptr);
      tag_ = other.tag_;
      size_bytes_ = other.size_bytes_;
      error_ = other.error_;
    }
    return *this;
  }
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;

  [[nodiscard]] explicit operator bool() const noexcept { return budget_ != nullptr; }
  [[nodiscard]] const glebe_budget_error& error() const noexcept { return error_; }
  void release() noexcept {
    if (budget_ != nullptr) {
      static_cast<void>(glebe_budget_discharge(std::exchange(budget_, nullptr), tag_, size_bytes_));
    }
  }

 private:
  glebe_budget* budget_ = nullptr;
  std::uint32_t tag_ = 0;
  std::uint64_t size_bytes_ = 0;
  glebe_budget_error error_{};
};

}  // namespace glebe
