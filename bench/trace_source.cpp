// Recording and preparing traces; the formats are described in trace_format.h.
#include "bench/trace_source.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <unordered_map>

#include "bench/allocators.h"
#include "bench/launch.h"
#include "bench/trace_format.h"

namespace torture {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kSizeMax = std::uint64_t{1} << 30;  // a larger block is replayed as this many bytes

// Takes a recorded trace apart. The last event may be cut off; then end() becomes true before it.
class Decoder {
 public:
  explicit Decoder(std::vector<std::uint8_t> bytes)
      : bytes_(std::move(bytes)), place_(sizeof kRecordedMagic - 1) {}

  struct Event {
    TraceKind kind;
    std::uint16_t thread;
    std::uint8_t alignment_log2;
    std::uint64_t size;
    std::int64_t old_address;
    std::int64_t address;
  };

  // False at the end of the trace.
  bool next(Event& event) {
    if (place_ >= bytes_.size()) return false;
    const std::uint8_t head = bytes_[place_++];
    if ((head & kTraceKindMask) > static_cast<std::uint8_t>(TraceKind::kAligned)) {
      throw std::runtime_error("the trace is damaged at byte " + std::to_string(place_ - 1));
    }
    event = Event{static_cast<TraceKind>(head & kTraceKindMask), 0, 0, 0, 0, 0};
    if ((head & kThreadChanged) != 0) thread_ = static_cast<std::uint16_t>(number());
    event.thread = thread_;
    if (event.kind == TraceKind::kAligned) event.alignment_log2 = static_cast<std::uint8_t>(number());
    if (event.kind != TraceKind::kFree) event.size = number();
    if (event.kind == TraceKind::kResize) event.old_address = address();
    event.address = address();
    return !cut_off_;
  }

 private:
  std::uint64_t number() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (place_ >= bytes_.size()) {
        cut_off_ = true;
        return 0;
      }
      const std::uint8_t byte = bytes_[place_++];
      value |= std::uint64_t{byte & 0x7Fu} << shift;
      if ((byte & 0x80) == 0) break;
    }
    return value;
  }

  std::int64_t address() {
    last_ += unzigzag(number());
    return last_;
  }

  std::vector<std::uint8_t> bytes_;
  std::size_t place_;
  std::int64_t last_ = 0;
  std::uint16_t thread_ = 0;
  bool cut_off_ = false;
};

// Turns events into operations on slots. A slot is used again after its block was freed, so that the tables
// of the replay are as large as the live set and no larger.
class Preparer {
 public:
  void take(const Decoder::Event& event) {
    threads_ = std::max<std::uint32_t>(threads_, event.thread + 1u);
    if (event.kind == TraceKind::kFree) return release(event.address, event.thread);
    if (event.kind == TraceKind::kResize && event.old_address != 0) return resize(event);
    // A free that was not recorded (before main, inside the loader) shows when its address is given out
    // again.
    release(event.address, event.thread);
    const std::uint32_t slot = fresh_slot();
    live_[event.address] = slot;
    const TraceKind kind = event.kind == TraceKind::kResize ? TraceKind::kAllocate : event.kind;
    append(slot, event, kind);
  }

  void finish() {
    std::vector<std::uint32_t> left;
    for (const auto& [address, slot] : live_) left.push_back(slot);
    std::sort(left.begin(), left.end());
    for (const std::uint32_t slot : left)
      append(slot, Decoder::Event{TraceKind::kFree, 0, 0, 0, 0, 0}, TraceKind::kFree);
  }

  [[nodiscard]] const std::vector<PreparedOp>& operations() const { return operations_; }
  [[nodiscard]] PreparedHeader header() const {
    return PreparedHeader{operations_.size(), static_cast<std::uint32_t>(turns_.size()), threads_};
  }

 private:
  void release(std::int64_t address, std::uint16_t thread) {
    const auto found = live_.find(address);
    if (found == live_.end()) return;
    append(found->second, Decoder::Event{TraceKind::kFree, thread, 0, 0, 0, 0}, TraceKind::kFree);
    free_slots_.push_back(found->second);
    live_.erase(found);
  }

  void resize(const Decoder::Event& event) {
    const auto found = live_.find(event.old_address);
    if (event.address == 0) return release(event.old_address, event.thread);
    if (found == live_.end()) {
      release(event.address, event.thread);
      const std::uint32_t slot = fresh_slot();
      live_[event.address] = slot;
      return append(slot, event, TraceKind::kAllocate);
    }
    const std::uint32_t slot = found->second;
    live_.erase(found);
    release(event.address, event.thread);
    live_[event.address] = slot;
    append(slot, event, TraceKind::kResize);
  }

  std::uint32_t fresh_slot() {
    if (free_slots_.empty()) {
      turns_.push_back(0);
      return static_cast<std::uint32_t>(turns_.size() - 1);
    }
    const std::uint32_t slot = free_slots_.back();
    free_slots_.pop_back();
    return slot;
  }

  void append(std::uint32_t slot, const Decoder::Event& event, TraceKind kind) {
    // The blocks of the replay carry a mark, so one of 0 bytes becomes one of 1 byte.
    const std::uint64_t size = std::clamp<std::uint64_t>(event.size, 1, kSizeMax);
    operations_.push_back(PreparedOp{slot, turns_[slot]++, static_cast<std::uint32_t>(size), event.thread,
                                     kind, event.alignment_log2});
  }

  std::unordered_map<std::int64_t, std::uint32_t> live_;
  std::vector<std::uint32_t> free_slots_;
  std::vector<std::uint32_t> turns_;  // operations so far, by slot
  std::vector<PreparedOp> operations_;
  std::uint32_t threads_ = 0;
};

std::vector<std::uint8_t> read_recorded(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("the trace " + path + " cannot be read");
  std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const std::size_t magic_bytes = sizeof kRecordedMagic - 1;
  if (bytes.size() < magic_bytes || ::memcmp(bytes.data(), kRecordedMagic, magic_bytes) != 0) {
    throw std::runtime_error(path + " is not a recorded trace");
  }
  return bytes;
}

void write_all(int file, const void* data, std::size_t bytes) {
  for (std::size_t sent = 0; sent < bytes;) {
    const ssize_t count = ::write(file, static_cast<const char*>(data) + sent, bytes - sent);
    if (count <= 0)
      throw std::runtime_error(std::string("a prepared trace cannot be stored: ") + ::strerror(errno));
    sent += static_cast<std::size_t>(count);
  }
}

// The first executable of this name in PATH. Scripts are passed over: many systems put a shell script in
// front of an interpreter, and the trace would be that of the shell.
std::string find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  const char* path = ::getenv("PATH");
  std::string folders = path == nullptr ? "/usr/bin:/bin" : path;
  for (std::size_t start = 0; start <= folders.size();) {
    const std::size_t end = std::min(folders.find(':', start), folders.size());
    const std::string candidate = folders.substr(start, end - start) + "/" + name;
    start = end + 1;
    if (::access(candidate.c_str(), X_OK) != 0) continue;
    char head[2] = {};
    std::ifstream(candidate, std::ios::binary).read(head, 2);
    if (head[0] != '#' || head[1] != '!') return candidate;
  }
  throw std::runtime_error(name + " is not installed");
}

struct KnownProgram {
  const char* name;
  std::vector<std::string> arguments;
  std::vector<std::string> environment;
};

// Two threads, so that blocks are freed by the other one; a fixed hash seed, so that each recording is the
// same work.
constexpr char kPythonText[] = R"(
import json, re, threading
class Item:
    def __init__(self, number):
        self.number = number
        self.name = 'item %d' % number
        self.links = [number * k for k in range(5)]
def work(start, shared):
    items = {'k%d' % i: Item(i) for i in range(start, start + 2500)}
    text = json.dumps([vars(item) for item in items.values()])
    rows = json.loads(text)
    words = re.findall(r'[a-z]+ [0-9]+', text)
    rows.sort(key=lambda row: row['name'])
    shared.extend(''.join(reversed(word)) for word in words)
    for i in range(0, len(shared), 3):
        shared[i] = shared[i] + shared[-i]
shared = []
for turn in range(3):
    threads = [threading.Thread(target=work, args=(turn * 9000 + i * 3000, shared)) for i in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    del shared[:2000]
)";

constexpr char kPerlText[] = R"(
my (%count, @lines);
for my $round (1 .. 6) {
  for my $i (1 .. 6000) {
    my $line = join(' ', map { 'word' . (($i * $_ * 7919 + $round) % 5000) } 1 .. 8);
    $count{$_}++ for split / /, $line;
    push @lines, { text => $line, length => length($line) };
  }
  my @sorted = sort { $a->{length} <=> $b->{length} || $a->{text} cmp $b->{text} } @lines;
  my $text = join("\n", map { $_->{text} } @sorted[0 .. 2000]);
  $text =~ s/word(\d+)/w<$1>/g;
  @lines = @lines[0 .. 3000];
}
)";

constexpr char kSqliteText[] = R"(
create table t(id integer primary key, name text, value real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 40000)
insert into t select i, 'name ' || (i * 7919 % 40000), i * 0.5 from n;
create index by_name on t(name);
select count(*), sum(a.value) from t a join t b on a.name = b.name where a.id % 3 = 0;
select substr(name, 1, 7) as head, count(*), group_concat(id) from t group by head order by 2 desc limit 50;
update t set name = name || ' changed' where id % 5 = 0;
delete from t where id % 2 = 0;
)";

KnownProgram known_program(const std::string& name) {
  if (name == "python3") {
    // By default python takes small objects from its own pools; the trace is to see all of them.
    return {"python3", {"-S", "-c", kPythonText}, {"PYTHONMALLOC=malloc", "PYTHONHASHSEED=0"}};
  }
  if (name == "perl") return {"perl", {"-e", kPerlText}, {"PERL_HASH_SEED=0"}};
  if (name == "sqlite3") return {"sqlite3", {":memory:", kSqliteText}, {}};
  throw std::runtime_error("no program to record for " + name);
}

}  // namespace

PreparedTrace::~PreparedTrace() { ::close(descriptor_); }

std::string PreparedTrace::path() const {
  return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(descriptor_);
}

std::unique_ptr<PreparedTrace> prepare_trace(const std::string& recorded_file) {
  Decoder decoder(read_recorded(recorded_file));
  Preparer preparer;
  Decoder::Event event;
  while (decoder.next(event)) preparer.take(event);
  preparer.finish();
  const PreparedHeader header = preparer.header();
  if (header.operations == 0) throw std::runtime_error(recorded_file + " holds no calls");
  const int file = ::memfd_create("torture-trace", MFD_CLOEXEC);
  if (file < 0)
    throw std::runtime_error(std::string("a prepared trace cannot be stored: ") + ::strerror(errno));
  auto trace = std::make_unique<PreparedTrace>(file);
  write_all(file, &header, sizeof header);
  write_all(file, preparer.operations().data(), preparer.operations().size() * sizeof(PreparedOp));
  return trace;
}

void record_trace(const std::string& file, const std::vector<std::string>& program,
                  const std::vector<std::string>& environment, bool quiet) {
  const std::string recorder = find_recorder();
  if (recorder.empty())
    throw std::runtime_error("libtrace_record.so is neither next to torture nor in its build");
  if (fs::exists(file)) throw std::runtime_error("the file " + file + " exists already");
  Program task{program, environment, quiet};
  task.arguments[0] = find_program(program[0]);
  task.environment.push_back("LD_PRELOAD=" + recorder);
  task.environment.push_back("TORTURE_TRACE=" + file);
  const std::string failure = run_program(task);
  if (!failure.empty()) throw std::runtime_error(program[0] + ": " + failure);
  if (!fs::exists(file)) throw std::runtime_error(program[0] + " ran, but its calls were not recorded");
}

std::unique_ptr<PreparedTrace> record_known_program(const std::string& name) {
  const KnownProgram known = known_program(name);
  std::string folder = (fs::temp_directory_path() / "torture-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) throw std::runtime_error("no temporary folder: " + folder);
  std::vector<std::string> program{known.name};
  program.insert(program.end(), known.arguments.begin(), known.arguments.end());
  std::unique_ptr<PreparedTrace> trace;
  std::string failure;
  try {
    record_trace(folder + "/trace", program, known.environment, true);
    trace = prepare_trace(folder + "/trace");
  } catch (const std::exception& error) {
    failure = error.what();
  }
  fs::remove_all(folder);
  if (!failure.empty()) throw std::runtime_error(failure);
  return trace;
}

}  // namespace torture
