// Who waits for room below the budget (wait_for_room in src/paging/discard.cpp), and when that is given up.
// What would break: on a busy machine, where the pager gets its turns late, a program grows to several times
// its budget; or one whose page file is stuck waits at each step.
#include <thread>

#include "platform/service.h"
#include "src/paging/pager_state.h"
#include "tests/heap_child.h"

#include "tests/catch.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

constexpr std::uint64_t kLimitNs = 20'000'000;  // in which two pages should have gone

// Twice the budget is in use, and nothing goes out. Whether whoever waited gave up.
bool gives_up() {
  pager.room.look(200 * kMiB, 100 * kMiB);
  if (!is_room_short()) return false;
  wait_for_room(kLimitNs);
  return !is_room_short();
}

int without_a_turn() { return gives_up() ? 1 : 0; }

int in_whole_rounds() {
  std::atomic<bool> is_over{false};
  std::thread evictor([&] {
    while (!is_over.load()) {
      pager.rounds.fetch_add(1);
      os::wake_all(pager.rounds);
      std::this_thread::yield();
    }
  });
  const bool did = gives_up();
  is_over.store(true);
  evictor.join();
  return did ? 0 : 1;
}

int while_it_writes() {
  pager.is_evictor_writing.store(true);
  return gives_up() ? 0 : 1;
}

}  // namespace

TEST_CASE("Who waits for room goes on waiting while the evictor gets no turn", "[paging]") {
  CHECK(in_child(without_a_turn) == 0);
}

TEST_CASE("Who waits for room gives up when rounds free nothing, or the disk keeps the evictor", "[paging]") {
  CHECK(in_child(in_whole_rounds) == 0);
  CHECK(in_child(while_it_writes) == 0);
}
