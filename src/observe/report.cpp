// One snapshot as JSON and as a report for people. Text is made in a small buffer, line by line, and handed
// to the sink.
#include "platform/process.h"
#include "src/base/text.h"
#include "src/heap/size_class.h"
#include "src/observe/observe.h"

namespace glebe::observe {
namespace {

constexpr std::size_t kLineBytes = 256;

struct Number {
  std::string_view name;
  std::uint64_t Snapshot::*value;
};
constexpr Number kNumbers[] = {
#define NUMBER(name) {#name, &Snapshot::name},
#include "src/observe/numbers.def"
#undef NUMBER
};

std::string_view state_name(heap::HeapState state) noexcept {
  switch (state) {
    case heap::HeapState::unused:
      return "unused";
    case heap::HeapState::thread_owned:
      return "thread";
    case heap::HeapState::orphan:
      return "orphan";
    case heap::HeapState::first_class:
      return "first_class";
    case heap::HeapState::shared:
      return "shared";
    case heap::HeapState::frozen:
      return "frozen";
  }
  return "unknown";
}

void flush(Text& text, const Sink& sink) noexcept {
  sink.write(sink.context, text.view());
  text.clear();
}

// Rows of a JSON array: a comma in front of each but the first.
struct Rows {
  const Sink& sink;
  bool is_first = true;
};

Text& begin_row(Text& text, Rows& rows) noexcept {
  text.append(rows.is_first ? "\n    {" : ",\n    {");
  rows.is_first = false;
  return text;
}

void append_member(Text& text, std::string_view name, std::uint64_t value) noexcept {
  text.append_json_string(name).append(": ").append_unsigned(value);
}

void write_class_rows(const Snapshot& snapshot, const Sink& sink) noexcept {
  char buffer[kLineBytes];
  Text text(buffer);
  Rows rows{sink};
  for (unsigned i = 0; i < heap::kClassCount; ++i) {
    const heap::ClassStats& row = snapshot.classes[i];
    append_member(begin_row(text, rows), "block_bytes", heap::class_bytes(i));
    append_member(text.append(", "), "slabs", row.slabs);
    append_member(text.append(", "), "live_blocks", row.live_blocks);
    append_member(text.append(", "), "cached_blocks", row.cached_blocks);
    append_member(text.append(", "), "free_blocks", row.free_blocks);
    text.append("}");
    flush(text, sink);
  }
}

void write_heap_row(void* context, const heap::HeapStats& heap) {
  Rows& rows = *static_cast<Rows*>(context);
  char buffer[kLineBytes];
  Text text(buffer);
  begin_row(text, rows).append_json_string("state").append(": ").append_json_string(state_name(heap.state));
  append_member(text.append(", "), "id", heap.id);
  append_member(text.append(", "), "slabs", heap.slabs);
  append_member(text.append(", "), "blocks_carved", heap.blocks_carved);
  append_member(text.append(", "), "blocks_returned", heap.blocks_returned);
  text.append("}");
  flush(text, rows.sink);
}

// "  name      12.3 MiB  in  4567 blocks"
struct Line {
  std::string_view name;
  std::uint64_t size_bytes;
  std::uint64_t count;
  std::string_view noun;  // of what is counted; empty for none
};

void write_line(const Line& line, const Sink& sink) noexcept {
  char buffer[kLineBytes];
  Text text(buffer);
  text.append("  ").append(line.name).pad_to(26);
  std::size_t start = text.size();
  text.append_size(line.size_bytes).align_right(start, 12);
  if (!line.noun.empty()) {
    start = text.size();
    text.append_unsigned(line.count).align_right(start, 14).append(" ").append(line.noun);
  }
  text.append("\n");
  flush(text, sink);
}

void write_heading(std::string_view version, const Sink& sink) noexcept {
  char buffer[kLineBytes];
  Text text(buffer);
  text.append("glebe ").append(version).append(", statistics of process ").append_unsigned(os::process_id());
  text.append("\n");
  flush(text, sink);
}

void write_counts(const Snapshot& snapshot, const Sink& sink) noexcept {
  char buffer[kLineBytes];
  Text text(buffer);
  text.append("  committed and not in use ");
  const std::uint64_t blocks = snapshot.committed_bytes - snapshot.metadata_bytes;
  // Other threads may have allocated between the two numbers.
  const std::uint64_t unused = blocks > snapshot.live_bytes ? blocks - snapshot.live_bytes : 0;
  text.append_percent(unused, blocks, 1).append("\n");
  flush(text, sink);
  text.append("  heaps ").append_unsigned(snapshot.heaps).append(", orphans ");
  text.append_unsigned(snapshot.orphan_heaps).append(", first-class ");
  text.append_unsigned(snapshot.first_class_heaps).append("\n");
  flush(text, sink);
  text.append("  faults ").append_unsigned(snapshot.minor_faults).append(" minor, ");
  text.append_unsigned(snapshot.major_faults).append(" major; failed allocations ");
  text.append_unsigned(snapshot.failed_allocations).append(", misuse reports ");
  text.append_unsigned(snapshot.misuse_reports).append("\n");
  flush(text, sink);
  text.append("  system calls: reserve ").append_unsigned(snapshot.reserve_calls).append(", commit ");
  text.append_unsigned(snapshot.commit_calls).append(", decommit ").append_unsigned(snapshot.decommit_calls);
  text.append(", purge ").append_unsigned(snapshot.purge_calls).append(", protect ");
  text.append_unsigned(snapshot.protect_calls).append(", move ").append_unsigned(snapshot.move_calls);
  text.append(", advise ").append_unsigned(snapshot.advise_calls).append("\n");
  flush(text, sink);
}

void write_paging(const Snapshot& snapshot, const Sink& sink) noexcept {
  if (snapshot.paging_mode == 0) return;
  const Line lines[] = {
      {"paging: budget", snapshot.paging_budget_bytes, 0, ""},
      {"  in RAM", snapshot.paging_used_bytes, 0, ""},
      {"  staged", snapshot.paging_staged_bytes, 0, ""},
      {"  out", snapshot.paging_out_bytes, snapshot.paging_page_outs, "pages out since the start"},
      {"  compressed", snapshot.paging_compressed_bytes, snapshot.paging_page_ins, "pages in"},
      {"  mapped by the program", snapshot.paging_mapped_bytes, snapshot.paging_maps, "calls of mmap"},
      {"  in page files", snapshot.paging_file_bytes, snapshot.paging_file_page_ins, "of these from files"},
      {"  saved, average", snapshot.paging_saved_average_bytes, 0, ""},
      {"  saved, peak", snapshot.paging_saved_peak_bytes, 0, ""},
  };
  for (const Line& line : lines) write_line(line, sink);
  char buffer[kLineBytes];
  Text text(buffer);
  text.append("  faults that somebody waited for ").append_unsigned(snapshot.paging_faults).append(": zero ");
  text.append_unsigned(snapshot.paging_zero_fills).append(", staged ");
  text.append_unsigned(snapshot.paging_second_chances).append("; stalled ");
  text.append_unsigned(snapshot.paging_stall_ns_total / 1'000'000).append(" ms, half below ");
  text.append_unsigned(snapshot.paging_stall_p50_ns / 1000).append(" us, 99 of 100 below ");
  text.append_unsigned(snapshot.paging_stall_p99_ns / 1000).append(" us\n");
  flush(text, sink);
  text.append("  dropped unread ").append_unsigned(snapshot.paging_dropped_pages).append(" pages, refused ");
  text.append_unsigned(snapshot.paging_refused_pages).append(", errors of the store ");
  text.append_unsigned(snapshot.paging_store_errors).append(", page-out CPU ");
  text.append_unsigned(snapshot.paging_evictor_cpu_ns / 1'000'000).append(" ms\n");
  flush(text, sink);
}

// Size classes that have a slab.
void write_class_table(const Snapshot& snapshot, const Sink& sink) noexcept {
  constexpr std::size_t kColumn = 12;
  char buffer[kLineBytes];
  Text text(buffer);
  text.append("  block bytes       slabs        live      cached        free\n");
  flush(text, sink);
  for (unsigned i = 0; i < heap::kClassCount; ++i) {
    const heap::ClassStats& row = snapshot.classes[i];
    if (row.slabs == 0) continue;
    text.append(" ");
    for (const std::uint64_t value :
         {std::uint64_t{heap::class_bytes(i)}, std::uint64_t{row.slabs}, std::uint64_t{row.live_blocks},
          std::uint64_t{row.cached_blocks}, std::uint64_t{row.free_blocks}}) {
      const std::size_t start = text.size();
      text.append_unsigned(value).align_right(start, kColumn);
    }
    text.append("\n");
    flush(text, sink);
  }
}

}  // namespace

void write_json(const Snapshot& snapshot, std::string_view version, const Sink& sink) noexcept {
  char buffer[kLineBytes];
  Text text(buffer);
  text.append("{\n  \"version\": ").append_json_string(version).append(",\n  \"process\": ");
  text.append_unsigned(os::process_id());
  flush(text, sink);
  for (const Number& number : kNumbers) {
    append_member(text.append(",\n  "), number.name, snapshot.*number.value);
    flush(text, sink);
  }
  text.append(",\n  \"classes\": [");
  flush(text, sink);
  write_class_rows(snapshot, sink);
  text.append("\n  ],\n  \"heap_list\": [");
  flush(text, sink);
  Rows rows{sink};
  heap::walk_heaps(write_heap_row, &rows);
  text.append("\n  ]\n}\n");
  flush(text, sink);
}

void write_report(const Snapshot& snapshot, std::string_view version, const Sink& sink) noexcept {
  write_heading(version, sink);
  const Line lines[] = {
      {"in use", snapshot.live_bytes, snapshot.live_blocks, "blocks"},
      {"  small, to 32 KiB", snapshot.small_live_bytes, snapshot.small_live_blocks, "blocks"},
      {"  medium, to 32 MiB", snapshot.medium_live_bytes, snapshot.medium_live_blocks, "blocks"},
      {"  large", snapshot.large_live_bytes, snapshot.large_live_blocks, "blocks"},
      {"cached, small", snapshot.small_cached_bytes, snapshot.small_cached_blocks, "blocks"},
      {"cached, medium", snapshot.medium_cached_bytes, snapshot.medium_cached_blocks, "blocks"},
      {"free in slabs", snapshot.small_free_bytes, snapshot.small_free_blocks, "blocks"},
      {"free in medium ranges", snapshot.medium_free_bytes, 0, ""},
      {"idle large slots", snapshot.large_idle_bytes, 0, ""},
      {"dirty: free, with pages", snapshot.dirty_bytes, 0, ""},
      {"purged since the start", snapshot.purged_bytes_total, 0, ""},
      {"reserved", snapshot.reserved_bytes, 0, ""},
      {"committed", snapshot.committed_bytes, 0, ""},
      {"committed, peak", snapshot.committed_peak_bytes, 0, ""},
      {"metadata", snapshot.metadata_bytes, 0, ""},
      {"resident process", snapshot.resident_bytes, 0, ""},
      {"resident process, peak", snapshot.resident_peak_bytes, 0, ""},
  };
  for (const Line& line : lines) write_line(line, sink);
  write_counts(snapshot, sink);
  write_paging(snapshot, sink);
  write_class_table(snapshot, sink);
}

}  // namespace glebe::observe
