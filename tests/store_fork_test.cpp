// The page store across fork(2): what a child may read for as long as it likes while the parent goes on, and
// what the parent gets back when the child has let go.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "src/base/bits.h"
#include "src/paging/store.h"
#include "tests/store_rig.h"

#include "tests/catch.h"
#include "tests/heap_child.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

constexpr std::uint64_t kObjects = 600;

Bytes page(std::uint64_t seed) {
  return make_object(seed % 3 == 0 ? Kind::noise : Kind::text, kPageBytes, seed);
}

// Objects that lie in the compressed tier, on file, and in the handle.
std::vector<Handle> store_all(StoreRig& rig, std::uint64_t first_seed) {
  std::vector<Handle> handles;
  for (std::uint64_t i = 0; i < kObjects; ++i) {
    const Bytes bytes = page(first_seed + i);
    const Handle in_ram = i % 2 == 0 ? rig.put(bytes) : kNoObject;
    handles.push_back(in_ram != kNoObject ? in_ram : rig.write(bytes));
  }
  return handles;
}

bool all_right(StoreRig& rig, const std::vector<Handle>& handles, std::uint64_t first_seed) {
  for (std::uint64_t i = 0; i < handles.size(); ++i) {
    if (!rig.holds(handles[i], page(first_seed + i))) return false;
  }
  return true;
}

// One byte through a pipe, in each direction.
struct Signal {
  int ends[2] = {-1, -1};
  Signal() { REQUIRE(::pipe2(ends, O_CLOEXEC) == 0); }
  ~Signal() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  void send() const { static_cast<void>(::write(ends[1], "x", 1)); }
  bool wait() const {
    char byte = 0;
    return ::read(ends[0], &byte, 1) == 1;
  }
};

// Forks a child that seals the store, waits for `go`, and says by its status whether it reads everything.
pid_t fork_reader(StoreRig& rig, const std::vector<Handle>& handles, std::uint64_t first_seed,
                  const Signal& go) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  ::alarm(kChildSeconds);
  rig.store.seal_in_child();
  ::_exit(go.wait() && all_right(rig, handles, first_seed) ? 0 : 1);
}

int status_of(pid_t child) {
  int status = -1;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

struct ChurnState {
  std::atomic<bool> is_over{false};
  std::atomic<unsigned> rounds{0}, unopened{0};
};

// Puts, writes, drops and trims until it is told to stop.
void churn(Store& store, std::uint64_t number, ChurnState& state) {
  Scratch scratch;
  Batch batch;
  if (!scratch.open(Codec::lz4) || !batch.open()) state.unopened.fetch_add(1);
  Random random(number);
  while (!state.is_over && state.unopened == 0) {
    std::vector<Handle> mine;
    batch.clear();
    for (int i = 0; i < 50; ++i) {
      const Bytes bytes = page(random.next());
      Handle handle = kNoObject;
      if (store.put(bytes.data(), bytes.size(), scratch, &handle) == PutResult::stored) {
        mine.push_back(handle);
      } else {
        static_cast<void>(store.add(batch, bytes.data(), bytes.size()));
      }
    }
    store.write(batch);
    for (unsigned i = 0; i < batch.count(); ++i) store.drop(batch.written(i));
    for (const Handle handle : mine) store.drop(handle);
    store.trim();
    state.rounds.fetch_add(1);
  }
}

}  // namespace

TEST_CASE("P8 a child reads what was stored before the fork, whatever the parent does", "[paging]") {
  const TestDirectory directory;
  StoreOptions options;
  options.directory = directory.path().c_str();
  StoreRig rig;
  REQUIRE(rig.open(options));
  const std::vector<Handle> handles = store_all(rig, 0);
  const std::size_t live_bytes = rig.store.stats().file_live_bytes;
  const Signal go;
  rig.store.hold();
  const pid_t child = fork_reader(rig, handles, 0, go);
  REQUIRE(child > 0);

  // The parent forgets all of it, gives everything back that it can, and fills the files with other things.
  for (const Handle handle : handles) rig.store.drop(handle);
  REQUIRE(rig.store.stats().file_parked_bytes == live_bytes);
  REQUIRE(rig.store.stats().file_live_bytes == 0);
  rig.store.trim();
  std::vector<Handle> others;
  for (int round = 0; round < 3; ++round) {
    others = store_all(rig, 10'000);
    if (round == 2) break;
    for (const Handle handle : others) rig.store.drop(handle);
    rig.store.trim();
  }
  // What came after the hold is not parked.
  REQUIRE(rig.store.stats().file_parked_bytes == live_bytes);
  go.send();
  REQUIRE(status_of(child) == 0);

  rig.store.release();
  StoreStats stats = rig.store.stats();
  REQUIRE(stats.file_parked_bytes == 0);
  REQUIRE(stats.file_live_bytes + stats.file_free_bytes == stats.file_space_bytes);
  REQUIRE(all_right(rig, others, 10'000));
  for (const Handle handle : others) rig.store.drop(handle);
  rig.store.trim();
  stats = rig.store.stats();
  REQUIRE(stats.file_space_bytes == 0);
  REQUIRE(stats.slab_bytes == 0);
}

TEST_CASE("P8 with two children, what was parked stays until both have let go", "[paging]") {
  const TestDirectory directory;
  StoreOptions options;
  options.directory = directory.path().c_str();
  StoreRig rig;
  REQUIRE(rig.open(options));
  const std::vector<Handle> first = store_all(rig, 0);
  const Signal go_first, go_second;
  rig.store.hold();
  const pid_t first_child = fork_reader(rig, first, 0, go_first);
  const std::vector<Handle> second = store_all(rig, 5000);
  rig.store.hold();
  const pid_t second_child = fork_reader(rig, second, 5000, go_second);
  for (const Handle handle : first) rig.store.drop(handle);
  for (const Handle handle : second) rig.store.drop(handle);
  const std::size_t parked_bytes = rig.store.stats().file_parked_bytes;
  REQUIRE(parked_bytes > 0);
  go_first.send();
  REQUIRE(status_of(first_child) == 0);
  rig.store.release();
  REQUIRE(rig.store.stats().file_parked_bytes == parked_bytes);
  store_all(rig, 20'000);
  go_second.send();
  REQUIRE(status_of(second_child) == 0);
  rig.store.release();
  REQUIRE(rig.store.stats().file_parked_bytes == 0);
}

TEST_CASE("P8 a sealed store reads and forgets, and neither takes nor writes anything", "[paging]") {
  const TestDirectory directory;
  StoreOptions options;
  options.directory = directory.path().c_str();
  StoreRig rig;
  REQUIRE(rig.open(options));
  const std::vector<Handle> handles = store_all(rig, 0);
  REQUIRE(in_child([&] {
            rig.store.seal_in_child();
            const Bytes text = make_object(Kind::text, kPageBytes, 1);
            Handle handle = kNoObject;
            if (rig.store.put(text.data(), text.size(), rig.scratch, &handle) != PutResult::full) return 1;
            if (rig.write(text) != kNoObject) return 2;
            if (!all_right(rig, handles, 0)) return 3;
            const StoreStats before = rig.store.stats();
            if (before.objects + before.file_objects != kObjects) return 4;
            for (std::uint64_t i = 0; i < kObjects / 2; ++i) rig.store.drop(handles[i]);
            const StoreStats after = rig.store.stats();
            if (after.objects + after.file_objects != kObjects / 2) return 5;
            if (rig.store.trim() != 0) return 6;
            for (std::uint64_t i = kObjects / 2; i < kObjects; ++i) {
              if (!rig.holds(handles[i], page(i))) return 7;
            }
            rig.store.close();
            return 0;
          }) == 0);
  REQUIRE(all_right(rig, handles, 0));
}

TEST_CASE("P8 children of a store that other threads are using can read it", "[paging]") {
  const TestDirectory directory;
  StoreOptions options;
  options.directory = directory.path().c_str();
  options.file_bytes_max = 2 * kMiB;
  options.compressed_limit_bytes = 2 * kMiB;
  StoreRig rig;
  REQUIRE(rig.open(options));
  const std::vector<Handle> handles = store_all(rig, 0);
  ChurnState state;
  std::vector<std::thread> threads;
  for (std::uint64_t i = 1; i < 4; ++i) threads.emplace_back([&, i] { churn(rig.store, i, state); });
  // The child allocates nothing: what locks malloc has in a fork of a busy process is not our subject.
  std::vector<Bytes> expected;
  for (std::uint64_t i = 0; i < 5; ++i) expected.push_back(page(i));
  Bytes read(kPageBytes);
  int status = 0;
  for (int i = 0; i < 40 && status == 0; ++i) {
    rig.store.hold();
    status = in_child([&] {
      rig.store.seal_in_child();
      rig.store.drop(handles[5]);
      for (unsigned n = 0; n < 5; ++n) {
        if (rig.get(handles[n], read) != GetResult::ok) return 1;
        if (read != expected[n]) return 2;
      }
      return rig.store.stats().objects > 0 ? 0 : 3;
    });
    rig.store.release();
  }
  state.is_over = true;
  for (std::thread& thread : threads) thread.join();
  REQUIRE(state.unopened == 0);
  REQUIRE(status == 0);
  REQUIRE(state.rounds > 0);
  REQUIRE(all_right(rig, handles, 0));
}
