// The C interface of include/glebe/paging.h over src/paging: checks pointers, converts types. No state: a
// pager and a budget live in os pages of their own.
#include <glebe/paging.h>

#include <cstring>

#include "src/api/paging_handles.h"
#include "src/base/text.h"
#include "src/paging/own_memory.h"

namespace glebe::api {
namespace {

// The numbers of the two interfaces are the same.
static_assert(static_cast<int>(pg::Result::in_child) == glebe_in_child);
static_assert(static_cast<int>(pg::Result::busy) == glebe_busy);
static_assert(static_cast<int>(pg::Result::corrupt) == glebe_corrupt);
static_assert(static_cast<int>(pg::Result::tier_full) == glebe_tier_full);
static_assert(static_cast<int>(pg::Tier::file) == glebe_tier_file);
static_assert(static_cast<int>(pg::Tier::device) == glebe_tier_device);
static_assert(static_cast<int>(pg::Operation::page_to) == glebe_page);
static_assert(static_cast<int>(pg::Operation::discard) == glebe_discard);
static_assert(static_cast<int>(pg::VictimKind::two_q) == glebe_victims_two_q);
static_assert(static_cast<int>(pg::TriggerKind::watermark) == glebe_trigger_watermark);
static_assert(static_cast<int>(pg::Usage::fixed) == glebe_usage_fixed);
static_assert(static_cast<int>(pg::BudgetAction::reclaim) == glebe_budget_reclaim);
static_assert(static_cast<int>(pg::BudgetResult::too_many_tags) == glebe_budget_too_many_tags);
static_assert(static_cast<int>(pg::Codec::zstd) == glebe_codec_zstd);
static_assert(sizeof(pg::BudgetConsumer) == sizeof(glebe_budget_consumer));
static_assert(pg::kBudgetTopMax == 4 && pg::kTiers == 4 && pg::kLatencyBuckets == 40);

glebe_budget_result to_c(pg::BudgetResult result) noexcept {
  return static_cast<glebe_budget_result>(result);
}

pg::Budget& budget_of(glebe_budget* budget) noexcept { return *reinterpret_cast<pg::Budget*>(budget); }
const pg::Budget& budget_of(const glebe_budget* budget) noexcept {
  return *reinterpret_cast<const pg::Budget*>(budget);
}

struct OwnBudget {
  pg::Budget budget;  // first: the handle points to it
  CallbackBridge bridge{};
};

// False: the options of C make no sense by themselves.
bool convert(const glebe_pager_options& from, OwnPager& target, pg::BufferPagerOptions* to) noexcept {
  if (from.host_action > glebe_budget_reclaim || from.codec > glebe_codec_zstd) return false;
  if (from.victims > glebe_victims_two_q || from.trigger > glebe_trigger_watermark) return false;
  if (from.device != nullptr && from.emulated_device_bytes != 0) return false;
  to->host_bytes = from.host_bytes;
  to->host_action = static_cast<pg::BudgetAction>(from.host_action);
  target.bridge.callbacks = from.host_callbacks;
  to->host_callbacks = target.bridge.table();
  to->device_bytes = from.device_bytes;
  to->compressed_bytes = from.compressed_bytes;
  to->directory = from.directory;
  to->file_bytes = from.file_bytes;
  to->file_bytes_max = from.file_bytes_max;
  to->codec = static_cast<pg::Codec>(from.codec);
  to->extent_bytes = from.extent_bytes;
  to->address_bytes = from.address_bytes;
  to->victims = static_cast<pg::VictimKind>(from.victims);
  to->trigger = static_cast<pg::TriggerKind>(from.trigger);
  to->limits = {from.age_limit, from.host_start, from.device_start, from.low_memory, from.severe};
  to->implicit_page_in = from.no_implicit_page_in == 0;
  to->watch_system = from.watch_system != 0;
  to->workers = from.workers;
  if (from.device != nullptr) {
    const glebe_device_memory& device = *from.device;
    if (device.allocate == nullptr || device.free == nullptr || device.copy_in == nullptr ||
        device.copy_out == nullptr) {
      return false;
    }
    target.device.device = device;
    target.table = target.device.table();
    to->device = &target.table;
  }
  return true;
}

void copy_numbers(const pg::BufferPagerStats& from, glebe_pager_stats* to) noexcept {
  to->buffers = from.buffers;
  to->extents = from.extents;
  to->total_bytes = from.total_bytes;
  to->resident_bytes = from.resident_bytes;
  to->paged_out_bytes = from.paged_out_bytes;
  to->unbacked_bytes = from.unbacked_bytes;
  std::memcpy(to->tier_bytes, from.tier_bytes, sizeof to->tier_bytes);
  std::memcpy(to->tier_used, from.tier_used, sizeof to->tier_used);
  std::memcpy(to->tier_limit, from.tier_limit, sizeof to->tier_limit);
  std::memcpy(to->tier_peak, from.tier_peak, sizeof to->tier_peak);
  to->pins = from.pins;
  to->page_ins = from.page_ins;
  to->implicit_page_ins = from.implicit_page_ins;
  to->page_outs = from.page_outs;
  to->zero_fills = from.zero_fills;
  to->clean_drops = from.clean_drops;
  to->bytes_in = from.bytes_in;
  to->bytes_out = from.bytes_out;
  to->device_bytes_in = from.device_in;
  to->device_bytes_out = from.device_out;
  to->evictions = from.evictions;
  to->refused_pinned = from.refused_pinned;
  to->spoiled = from.spoiled;
  to->failed_copies = from.failed_copies;
  to->waits = from.waits;
  to->failed_purges = from.failed_purges;
  to->crawls = from.crawls;
  to->crawled_extents = from.crawled_extents;
  to->prefetches = from.prefetches;
  to->requests = from.requests;
  to->pending = from.pending;
  to->epoch = from.epoch;
  std::memcpy(to->page_in_ns, from.page_in_ns, sizeof to->page_in_ns);
}

bool is_tier(glebe_tier tier) noexcept { return tier >= glebe_tier_host && tier <= glebe_tier_file; }

}  // namespace

void to_c(const pg::BudgetError& from, glebe_budget_error* to) noexcept {
  std::memcpy(to->label, from.label, sizeof to->label);
  to->requested_bytes = from.requested_bytes;
  to->used_bytes = from.used_bytes;
  to->limit_bytes = from.limit_bytes;
  to->top_count = from.top_count;
  std::memcpy(to->top, from.top, sizeof to->top);
}

}  // namespace glebe::api

using namespace glebe::api;

extern "C" {

const char* glebe_result_text(glebe_result result) { return pg::text_of(static_cast<pg::Result>(result)); }

// --- Budgets

// NOLINTNEXTLINE(readability-function-size): the parameters are those of the published interface
glebe_budget_result glebe_budget_new(const char* label, uint64_t limit_bytes, glebe_budget_action action,
                                     const glebe_budget_callbacks* callbacks, glebe_budget** budget) {
  if (label == nullptr || budget == nullptr) return glebe_budget_bad_argument;
  OwnBudget* const made = pg::make_own<OwnBudget>();
  if (made == nullptr) return glebe_budget_no_memory;
  if (callbacks != nullptr) made->bridge.callbacks = *callbacks;
  const pg::BudgetResult result =
      made->budget.open(label, limit_bytes, static_cast<pg::BudgetAction>(action), made->bridge.table());
  if (result != pg::BudgetResult::ok) {
    pg::end_own(made);
    return to_c(result);
  }
  *budget = reinterpret_cast<glebe_budget*>(&made->budget);
  return glebe_budget_ok;
}

void glebe_budget_free(glebe_budget* budget) {
  if (budget != nullptr) pg::end_own(reinterpret_cast<OwnBudget*>(budget));
}

glebe_budget_result glebe_budget_set_limit(glebe_budget* budget, uint64_t limit_bytes) {
  return budget == nullptr ? glebe_budget_bad_argument : to_c(budget_of(budget).set_limit(limit_bytes));
}

glebe_budget_result glebe_budget_set_action(glebe_budget* budget, glebe_budget_action action) {
  if (budget == nullptr) return glebe_budget_bad_argument;
  return to_c(budget_of(budget).set_action(static_cast<pg::BudgetAction>(action)));
}

glebe_budget_result glebe_budget_tag(glebe_budget* budget, const char* name, uint32_t* tag) {
  if (budget == nullptr || name == nullptr || tag == nullptr) return glebe_budget_bad_argument;
  return to_c(budget_of(budget).tag(name, tag));
}

glebe_budget_result glebe_budget_charge(glebe_budget* budget, uint32_t tag, uint64_t size,
                                        glebe_budget_error* error) {
  if (budget == nullptr) return glebe_budget_bad_argument;
  pg::BudgetError seen;
  const pg::BudgetResult result = budget_of(budget).charge(tag, size, error != nullptr ? &seen : nullptr);
  if (error != nullptr && result == pg::BudgetResult::exceeded) to_c(seen, error);
  return to_c(result);
}

glebe_budget_result glebe_budget_discharge(glebe_budget* budget, uint32_t tag, uint64_t size) {
  return budget == nullptr ? glebe_budget_bad_argument : to_c(budget_of(budget).discharge(tag, size));
}

uint64_t glebe_budget_used(const glebe_budget* budget) { return budget_of(budget).used_bytes(); }
uint64_t glebe_budget_peak(const glebe_budget* budget) { return budget_of(budget).peak_bytes(); }
uint64_t glebe_budget_limit(const glebe_budget* budget) { return budget_of(budget).limit_bytes(); }
uint64_t glebe_budget_tag_used(const glebe_budget* budget, uint32_t tag) {
  return budget_of(budget).tag_bytes(tag);
}

void glebe_budget_report(const glebe_budget* budget, uint64_t requested, glebe_budget_error* error) {
  pg::BudgetError seen;
  budget_of(budget).report(requested, &seen);
  to_c(seen, error);
}

size_t glebe_budget_error_text(const glebe_budget_error* error, char* buffer, size_t size) {
  pg::BudgetError converted;
  std::memcpy(converted.label, error->label, sizeof converted.label);
  converted.requested_bytes = error->requested_bytes;
  converted.used_bytes = error->used_bytes;
  converted.limit_bytes = error->limit_bytes;
  converted.top_count = error->top_count < pg::kBudgetTopMax ? error->top_count : pg::kBudgetTopMax;
  std::memcpy(converted.top, error->top, sizeof converted.top);
  glebe::Text text({buffer, size});
  converted.describe(text);
  return text.size();
}

// --- Pagers

glebe_result glebe_pager_options_init(glebe_pager_options* options) {
  if (options == nullptr || options->struct_bytes < sizeof *options) return glebe_bad_argument;
  const std::uint64_t struct_bytes = options->struct_bytes;
  const pg::BufferPagerOptions from;
  *options = {};
  options->struct_bytes = struct_bytes;
  options->host_bytes = from.host_bytes;
  options->host_action = glebe_budget_enforce;
  options->device_bytes = from.device_bytes;
  options->file_bytes = from.file_bytes;
  options->file_bytes_max = from.file_bytes_max;
  options->codec = static_cast<uint32_t>(from.codec);
  options->extent_bytes = from.extent_bytes;
  options->address_bytes = from.address_bytes;
  options->victims = static_cast<uint32_t>(from.victims);
  options->trigger = static_cast<uint32_t>(from.trigger);
  options->age_limit = from.limits.age_limit;
  options->host_start = from.limits.host_start;
  options->device_start = from.limits.device_start;
  options->low_memory = from.limits.low_memory;
  options->severe = from.limits.severe;
  options->workers = from.workers;
  return glebe_ok;
}

glebe_result glebe_pager_new(const glebe_pager_options* options, glebe_pager** pager) {
  if (pager == nullptr || (options != nullptr && options->struct_bytes < sizeof *options)) {
    return glebe_bad_argument;
  }
  OwnPager* const made = pg::make_own<OwnPager>();
  if (made == nullptr) return glebe_no_memory;
  pg::BufferPagerOptions converted;
  pg::Result result = pg::Result::ok;
  if (options != nullptr) {
    if (!convert(*options, *made, &converted)) result = pg::Result::bad_argument;
    if (result == pg::Result::ok && options->emulated_device_bytes != 0) {
      if (!made->emulated.open(options->emulated_device_bytes)) result = pg::Result::no_memory;
      made->table = made->emulated.table();
      converted.device = &made->table;
    }
  }
  if (result == pg::Result::ok) result = made->pager.open(converted);
  if (result != pg::Result::ok) {
    pg::end_own(made);
    return to_c(result);
  }
  *pager = reinterpret_cast<glebe_pager*>(made);
  return glebe_ok;
}

void glebe_pager_free(glebe_pager* pager) {
  if (pager != nullptr) pg::end_own(&own(pager));
}

glebe_budget* glebe_pager_budget(glebe_pager* pager, glebe_tier tier) {
  if (pager == nullptr) return nullptr;
  pg::Budget* budget = nullptr;
  if (tier == glebe_tier_host) budget = &pager_of(pager).host_budget();
  if (tier == glebe_tier_device) budget = &pager_of(pager).device_budget();
  if (tier == glebe_tier_file) budget = &pager_of(pager).file_budget();
  if (tier == glebe_tier_compressed && pager_of(pager).has_tier(pg::Tier::compressed)) {
    budget = &pager_of(pager).compressed_budget();
  }
  return reinterpret_cast<glebe_budget*>(budget);
}

glebe_result glebe_pager_set_limit(glebe_pager* pager, glebe_tier tier, uint64_t limit_bytes) {
  if (pager == nullptr || !is_tier(tier)) return glebe_bad_argument;
  if (tier == glebe_tier_compressed) return to_c(pager_of(pager).set_compressed_limit(limit_bytes));
  const glebe_budget_result result = glebe_budget_set_limit(glebe_pager_budget(pager, tier), limit_bytes);
  if (result != glebe_budget_ok) return glebe_bad_argument;
  pager_of(pager).note_limit(static_cast<pg::Tier>(tier));
  return glebe_ok;
}

uint32_t glebe_pager_pressure(glebe_pager* pager, glebe_tier tier) {
  return pager == nullptr || !is_tier(tier) ? 0 : pager_of(pager).pressure(static_cast<pg::Tier>(tier));
}

uint32_t glebe_pager_advance_epoch(glebe_pager* pager) {
  return pager == nullptr ? 0 : pager_of(pager).advance_epoch();
}

uint64_t glebe_pager_compact(glebe_pager* pager) { return pager == nullptr ? 0 : pager_of(pager).compact(); }

uint64_t glebe_pager_crawl(glebe_pager* pager, uint32_t percent) {
  return pager == nullptr ? 0 : pager_of(pager).crawl(percent);
}

uint64_t glebe_pager_reclaim(glebe_pager* pager, uint64_t bytes) {
  return pager == nullptr ? 0 : pager_of(pager).reclaim(bytes);
}

glebe_result glebe_pager_start_crawler(glebe_pager* pager, uint32_t interval_ms, uint32_t percent) {
  return pager == nullptr ? glebe_bad_argument : to_c(pager_of(pager).start_crawler(interval_ms, percent));
}

void glebe_pager_stop_crawler(glebe_pager* pager) {
  if (pager != nullptr) pager_of(pager).stop_crawler();
}

void glebe_pager_wait_all(glebe_pager* pager) {
  if (pager != nullptr) pager_of(pager).wait_all();
}

int glebe_pager_validate(glebe_pager* pager) {
  return pager != nullptr && pager_of(pager).validate() ? 1 : 0;
}

glebe_result glebe_pager_get_stats(glebe_pager* pager, glebe_pager_stats* stats) {
  if (pager == nullptr || stats == nullptr || stats->struct_bytes < sizeof stats->struct_bytes) {
    return glebe_bad_argument;
  }
  glebe_pager_stats all = {};
  copy_numbers(pager_of(pager).stats(), &all);
  const pg::StoreStats store = pager_of(pager).store_stats();
  all.compressed_objects = store.objects;
  all.compressed_object_bytes = store.object_bytes;
  all.file_live_bytes = store.file_live_bytes;
  all.file_allocated_bytes = store.file_allocated_bytes;
  all.store_errors = store.failed_writes + store.failed_reads + store.corrupt_reads;
  const pg::SystemMonitor::Sample system = pager_of(pager).sample_system();
  all.system_resident_bytes = system.resident_bytes;
  all.system_used_bytes = system.group_bytes;
  all.system_limit_bytes = system.group_limit_bytes;
  all.system_stalled = system.stalled;
  all.struct_bytes = stats->struct_bytes;
  std::memcpy(stats, &all, all.struct_bytes < sizeof all ? all.struct_bytes : sizeof all);
  return glebe_ok;
}

}  // extern "C"
