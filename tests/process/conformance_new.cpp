// Conformance of all forms of operator new and delete: null and exception rules, the new_handler loop,
// alignment, sized deletes. What would break: a handler that is not called again, nothrow that throws,
// bad_alloc that is not thrown. The forms are called by name, because a new-expression may be removed by the
// optimiser.
#include <malloc.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#include "tests/process/expect.h"

namespace {

using process_test::expect;
using process_test::fill;
using process_test::opaque;
using process_test::opaque_size;
using std::align_val_t;
using std::nothrow;

constexpr std::size_t kTooLarge = static_cast<std::size_t>(PTRDIFF_MAX) + 1;
const std::size_t kSizes[] = {0, 1, 15, 16, 17, 100, 1024, 5000, 32'768, 40'000, 1'000'000, 40'000'000};

int handler_calls = 0;

void counting_handler() {
  if (++handler_calls == 3) std::set_new_handler(nullptr);
}

struct HandlerError {};
void throwing_handler() {
  ++handler_calls;
  throw HandlerError{};
}
void bad_alloc_handler() {
  ++handler_calls;
  throw std::bad_alloc{};
}

void use(void* block, std::size_t size) {
  expect(block != nullptr, "operator new returns a block", size);
  expect(malloc_usable_size(block) >= size, "the block is large enough", size);
  fill(block, size, 0x42);
}

void plain_forms() {
  for (const std::size_t size : kSizes) {
    void* one = opaque(::operator new(opaque_size(size)));
    void* two = opaque(::operator new[](opaque_size(size)));
    void* three = opaque(::operator new(opaque_size(size), nothrow));
    void* four = opaque(::operator new[](opaque_size(size), nothrow));
    for (void* block : {one, two, three, four}) use(block, size);
    expect(one != two && three != four, "blocks are distinct", size);
    ::operator delete(one);
    ::operator delete[](two);
    ::operator delete(three, nothrow);
    ::operator delete[](four, nothrow);
    ::operator delete(opaque(::operator new(size)), size);
    ::operator delete[](opaque(::operator new[](size)), size);
  }
  ::operator delete(static_cast<void*>(nullptr));
  ::operator delete[](static_cast<void*>(nullptr));
  ::operator delete (static_cast<void*>(nullptr), std::size_t{8});
  ::operator delete(static_cast<void*>(nullptr), nothrow);
}

void aligned_forms() {
  for (std::size_t bytes = 1; bytes <= (1u << 21); bytes *= 2) {
    const auto alignment = static_cast<align_val_t>(bytes);
    for (const std::size_t size : kSizes) {
      if (size > 1'000'000 && bytes > 64) continue;
      void* blocks[] = {opaque(::operator new(size, alignment)),
                        opaque(::operator new[](size, alignment)),
                        opaque(::operator new(size, alignment, nothrow)),
                        opaque(::operator new[](size, alignment, nothrow)),
                        opaque(::operator new(size, alignment)),
                        opaque(::operator new[](size, alignment))};
      for (void* block : blocks) {
        use(block, size);
        expect(reinterpret_cast<std::uintptr_t>(block) % bytes == 0, "mut-D03 operator new is aligned",
               bytes);
      }
      ::operator delete(blocks[0], alignment);
      ::operator delete[](blocks[1], alignment);
      ::operator delete(blocks[2], alignment, nothrow);
      ::operator delete[](blocks[3], alignment, nothrow);
      ::operator delete(blocks[4], size, alignment);
      ::operator delete[](blocks[5], size, alignment);
    }
  }
}

template <class Call>
bool throws_bad_alloc(Call call) {
  try {
    opaque(call());
  } catch (const std::bad_alloc&) {
    return true;
  }
  return false;
}

void failures_without_handler() {
  std::set_new_handler(nullptr);
  for (const std::size_t raw : {kTooLarge, SIZE_MAX - 100, SIZE_MAX}) {
    const std::size_t size = opaque_size(raw);
    const align_val_t alignment{128};
    expect(throws_bad_alloc([&] { return ::operator new(size); }), "new throws bad_alloc", size);
    expect(throws_bad_alloc([&] { return ::operator new[](size); }), "new[] throws bad_alloc", size);
    expect(throws_bad_alloc([&] { return ::operator new(size, alignment); }), "aligned new throws bad_alloc",
           size);
    expect(throws_bad_alloc([&] { return ::operator new[](size, alignment); }), "aligned new[] throws", size);
    expect(opaque(::operator new(size, nothrow)) == nullptr, "nothrow new is null", size);
    expect(opaque(::operator new[](size, nothrow)) == nullptr, "nothrow new[] is null", size);
    expect(opaque(::operator new(size, alignment, nothrow)) == nullptr, "aligned nothrow new is null", size);
    expect(opaque(::operator new[](size, alignment, nothrow)) == nullptr, "aligned nothrow new[] is null",
           size);
  }
}

// The standard's loop: try, call the handler, try again, until the handler is gone.
void handler_loop() {
  const std::size_t size = opaque_size(kTooLarge);
  const align_val_t alignment{64};
  const auto counted = [&](auto call, bool throws, const char* what) {
    handler_calls = 0;
    std::set_new_handler(counting_handler);
    const bool thrown = throws_bad_alloc(call);
    expect(handler_calls == 3 && thrown == throws, what, static_cast<std::size_t>(handler_calls));
  };
  counted([&] { return ::operator new(size); }, true, "new calls the handler until it is gone");
  counted([&] { return ::operator new[](size); }, true, "new[] calls the handler until it is gone");
  counted([&] { return ::operator new(size, alignment); }, true, "aligned new calls the handler");
  counted([&] { return ::operator new[](size, alignment); }, true, "aligned new[] calls the handler");
  counted([&] { return ::operator new(size, nothrow); }, false, "nothrow new calls the handler");
  counted([&] { return ::operator new[](size, nothrow); }, false, "nothrow new[] calls the handler");
  counted([&] { return ::operator new(size, alignment, nothrow); }, false, "aligned nothrow new calls it");
  counted([&] { return ::operator new[](size, alignment, nothrow); }, false,
          "aligned nothrow new[] calls it");
}

void throwing_handlers() {
  const std::size_t size = opaque_size(kTooLarge);
  handler_calls = 0;
  std::set_new_handler(throwing_handler);
  bool passed_on = false;
  try {
    opaque(::operator new(size));
  } catch (const HandlerError&) {
    passed_on = true;
  }
  expect(passed_on && handler_calls == 1, "what a handler throws passes through new");
  std::set_new_handler(bad_alloc_handler);
  handler_calls = 0;
  expect(opaque(::operator new(size, nothrow)) == nullptr, "nothrow new swallows what the handler throws");
  expect(opaque(::operator new[](size, nothrow)) == nullptr,
         "nothrow new[] swallows what the handler throws");
  expect(opaque(::operator new (size, align_val_t{64}, nothrow)) == nullptr,
         "aligned nothrow new swallows it");
  expect(handler_calls == 3, "each form called the handler once", static_cast<std::size_t>(handler_calls));
  std::set_new_handler(nullptr);
}

}  // namespace

int main() {
  plain_forms();
  aligned_forms();
  failures_without_handler();
  handler_loop();
  throwing_handlers();
  return process_test::finish("conformance_new");
}
