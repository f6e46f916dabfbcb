// The table of the mapped zone against a naive model: one mark per page. What runs there are does not matter,
// what is known of each page does.
#include "src/paging/zone_table.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "tests/random.h"

#include "tests/catch.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

constexpr std::uint32_t kPages = 8192;
constexpr int kFree = -1;

// The engine of a table is too long for a stack.
std::unique_ptr<ZoneTable> make_table() {
  auto table = std::make_unique<ZoneTable>();
  REQUIRE(table->open(kPages));
  return table;
}

class Model {
 public:
  [[nodiscard]] bool is_free(std::uint32_t begin, std::uint32_t end) const {
    return std::all_of(marks_.begin() + begin, marks_.begin() + end, [](int mark) { return mark == kFree; });
  }
  void set(std::uint32_t begin, std::uint32_t end, int mark) {
    std::fill(marks_.begin() + begin, marks_.begin() + end, mark);
  }
  [[nodiscard]] int at(std::uint32_t page) const { return marks_[page]; }
  [[nodiscard]] std::uint64_t mapped() const {
    return kPages - static_cast<std::uint64_t>(std::count(marks_.begin(), marks_.end(), kFree));
  }

 private:
  std::vector<int> marks_ = std::vector<int>(kPages, kFree);
};

bool agree(const ZoneTable& table, const Model& model, std::uint32_t begin, std::uint32_t end) {
  while (begin < end) {
    const Piece piece = table.piece_at(begin, end);
    if (piece.begin != begin || piece.end <= begin || piece.end > end) return false;
    for (std::uint32_t page = piece.begin; page < piece.end; ++page) {
      if (model.at(page) != (piece.is_mapped ? piece.mark : kFree)) return false;
    }
    begin = piece.end;
  }
  return true;
}

void release(ZoneTable& table, std::uint32_t begin, std::uint32_t end) {
  while (begin < end) {
    const Piece piece = table.piece_at(begin, end);
    if (piece.is_mapped) table.release(piece);
    begin = piece.end;
  }
}

}  // namespace

TEST_CASE("Mappings of the zone are cut, claimed, released and grown as a page table says", "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  const auto table = make_table();
  Model model;
  Expect expect;
  for (int step = 0; step < 20'000; ++step) {
    const std::uint32_t begin = random.below32(kPages);
    const std::uint32_t end = begin + 1 + random.below32(std::min(kPages - begin, 300u));
    const auto mark = static_cast<std::uint8_t>(random.below(16));
    switch (random.below(5)) {
      case 0: {
        const std::uint32_t length = 16 + random.below32(700);
        const std::uint32_t hint = random.one_in(2) ? begin : placement::kNoUnit;
        const std::uint32_t first = table->place(length, hint, mark);
        if (first == placement::kNoUnit) break;
        expect(model.is_free(first, first + length));
        const bool is_wish =
            hint != placement::kNoUnit && hint + length <= kPages && model.is_free(hint, hint + length);
        expect(!is_wish || first == hint);
        model.set(first, first + length, mark);
        break;
      }
      case 1:
        table->claim(begin, end, mark);
        model.set(begin, end, mark);
        break;
      case 2:
        if (model.at(begin) == kFree) break;
        if (table->extend(begin + 1, end - begin)) {
          expect(model.is_free(begin + 1, end + 1));
          model.set(begin + 1, end + 1, model.at(begin));
        }
        break;
      default:
        release(*table, begin, end);
        model.set(begin, end, kFree);
        break;
    }
    expect(agree(*table, model, begin > 400 ? begin - 400 : 0, std::min(end + 400, kPages)));
    if (step % 500 == 0) expect(agree(*table, model, 0, kPages) && table->mapped_pages() == model.mapped());
  }
  release(*table, 0, kPages);
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(table->mapped_pages() == 0);
  REQUIRE(table->place(kPages, placement::kNoUnit, 3) == 0);  // all of it is one free run again
}

TEST_CASE("A free page of the zone says where the next mapping starts", "[paging]") {
  const auto table = make_table();
  const Piece all = table->piece_at(100, kPages);
  REQUIRE(!all.is_mapped);
  REQUIRE(all.end == kPages);
  table->claim(1000, 1010, 3);
  REQUIRE(table->piece_at(100, kPages).end == 1000);
  REQUIRE(table->piece_at(1010, kPages).end == kPages);
  REQUIRE(table->mapped_until(1000, 1100) == 1010);
  REQUIRE(table->mapped_until(999, 1100) == 999);
  REQUIRE(table->piece_at(1004, 1006).end == 1006);
  REQUIRE(table->piece_at(1004, kPages).run == 1000);
}
