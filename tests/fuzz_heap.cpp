// Fuzz target of the heap: the input is a program of allocation calls over 32 places. Every block carries a
// pattern of its place; a wrong byte, an overlap, a misaligned block or a structure that does not validate
// ends the run. Built with -Dfuzz=enabled and clang; run as: fuzz_heap [CORPUS] [-max_total_time=60]
#include <glebe/glebe.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>

namespace {

constexpr std::size_t kPlaces = 32;
constexpr std::size_t kSizeMax = std::size_t{40} << 20;  // beyond the first large block
constexpr std::size_t kCheckedBytes = 256;               // at each end of a block

struct Block {
  unsigned char* at = nullptr;
  std::size_t size = 0;
  bool in_heap = false;
};

void require(bool condition) {
  if (!condition) std::abort();
}

// Takes numbers off the front of the input; zeros when it is used up.
class Input {
 public:
  explicit Input(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
  [[nodiscard]] bool is_empty() const { return bytes_.empty(); }
  std::uint8_t byte() {
    if (bytes_.empty()) return 0;
    const std::uint8_t first = bytes_[0];
    bytes_ = bytes_.subspan(1);
    return first;
  }
  // One byte chooses the magnitude and two the digits, so that small and large sizes are equally near.
  std::size_t size() {
    const unsigned shift = byte() % 11u;
    const std::size_t digits = byte() + std::size_t{256} * byte();
    return (digits << shift) % kSizeMax;
  }

 private:
  std::span<const std::uint8_t> bytes_;
};

class Program {
 public:
  ~Program() {
    for (std::size_t place = 0; place < kPlaces; ++place) release(place);
    glebe_heap_free(heap_);
    require(glebe_heap_validate() == 1);
  }

  void run(Input input) {
    while (!input.is_empty()) {
      const std::uint8_t call = input.byte();
      const std::size_t place = input.byte() % kPlaces;
      step(call % 8, place, input);
    }
  }

 private:
  void step(unsigned call, std::size_t place, Input& input) {
    switch (call) {
      case 0:
      case 1:
        return put(place, glebe_malloc(last_ = input.size()), 16);
      case 2:
        return put_zeroed(place, input.size());
      case 3:
        return put_aligned(place, input);
      case 4:
        return resize(place, input.size());
      case 5:
        return put_in_heap(place, input.size());
      case 6:
        return release(place);
      default:
        return call_rare(input.byte());
    }
  }

  void call_rare(std::uint8_t which) {
    if (which % 4 == 0) glebe_trim();
    if (which % 4 == 1) require(glebe_heap_validate() == 1);
    if (which % 4 == 2) end_heap();
  }

  void put(std::size_t place, void* block, std::size_t alignment) {
    release(place);
    if (block == nullptr) return;
    require(reinterpret_cast<std::uintptr_t>(block) % alignment == 0);
    require(glebe_owns(block) == 1);
    require(glebe_usable_size(block) >= last_);
    blocks_[place] = {static_cast<unsigned char*>(block), last_, false};
    fill(place);
  }

  void put_zeroed(std::size_t place, std::size_t size) {
    last_ = size;
    auto* block = static_cast<unsigned char*>(glebe_calloc(1, size));
    for (std::size_t i = 0; block != nullptr && i < size; i += i < kCheckedBytes ? 1 : 509) {
      require(block[i] == 0);
    }
    put(place, block, 16);
  }

  void put_aligned(std::size_t place, Input& input) {
    const std::size_t alignment = std::size_t{1} << (input.byte() % 24u);
    last_ = input.size();
    put(place, glebe_aligned_alloc(alignment, last_), alignment);
  }

  void put_in_heap(std::size_t place, std::size_t size) {
    if (heap_ == nullptr) heap_ = glebe_heap_new();
    if (heap_ == nullptr) return;
    last_ = size;
    void* block = glebe_heap_malloc(heap_, size);
    put(place, block, 16);
    if (block == nullptr) return;
    require(glebe_heap_of(block) == heap_);
    blocks_[place].in_heap = true;
  }

  void resize(std::size_t place, std::size_t size) {
    Block& block = blocks_[place];
    if (block.at == nullptr || size == 0) return;
    check(place, block.size);
    auto* moved = static_cast<unsigned char*>(glebe_realloc(block.at, size));
    if (moved == nullptr) return;
    const std::size_t kept = size < block.size ? size : block.size;
    block.at = moved;
    for (std::size_t i = 0; i < kept && i < kCheckedBytes; ++i) require(moved[i] == pattern(place));
    block.size = size;
    fill(place);
  }

  void release(std::size_t place) {
    if (blocks_[place].at == nullptr) return;
    check(place, blocks_[place].size);
    glebe_free(blocks_[place].at);
    blocks_[place] = {};
  }

  // Destroys the heap with everything that is live in it.
  void end_heap() {
    for (Block& block : blocks_) {
      if (block.in_heap) block = {};
    }
    glebe_heap_free(heap_);
    heap_ = nullptr;
  }

  static unsigned char pattern(std::size_t place) { return static_cast<unsigned char>(place * 7 + 1); }

  void fill(std::size_t place) {
    const Block& block = blocks_[place];
    const std::size_t end = block.size < kCheckedBytes ? block.size : kCheckedBytes;
    std::memset(block.at, pattern(place), end);
    std::memset(block.at + block.size - end, pattern(place), end);
  }

  void check(std::size_t place, std::size_t size) {
    const unsigned char* at = blocks_[place].at;
    const std::size_t end = size < kCheckedBytes ? size : kCheckedBytes;
    for (std::size_t i = 0; i < end; ++i) {
      require(at[i] == pattern(place));
      require(at[size - 1 - i] == pattern(place));
    }
  }

  std::array<Block, kPlaces> blocks_{};
  glebe_heap* heap_ = nullptr;
  std::size_t last_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Program program;
  program.run(Input(std::span(data, size)));
  return 0;
}
