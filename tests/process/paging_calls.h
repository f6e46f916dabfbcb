// System calls on heap buffers that may be paged out, in a random choice: each must work as it does on memory
// that is resident, with no error that the call would not give there, and move exactly the right bytes.
#pragma once
#include "tests/process/paging_blocks.h"

namespace paging_test {

// Descriptors and files that the calls of one thread use. All are numbered below `close_above` of the
// program, so that close_range() of everything else leaves them alone.
class CallFiles {
 public:
  // Opens all; false: the system does not allow it (said on standard error).
  [[nodiscard]] bool open(const char* directory);
  // Performs one call on blocks of the set. Contents are as before when it returns.
  void perform(Blocks& blocks, Random& random);
  [[nodiscard]] std::uint64_t calls() const { return calls_; }
  [[nodiscard]] int highest() const;

 private:
  using Operation = void (CallFiles::*)(const Block& from, const Block& to, std::size_t bytes,
                                        Random& random);
  struct Row;
  static const Row kRows[];

  void pipe_copy(const Block& from, const Block& to, std::size_t bytes, Random& random);
  void pipe_vectors(const Block& from, const Block& to, std::size_t bytes, Random& random);
  void splice_copy(const Block& from, const Block& to, std::size_t bytes, Random& random);
  void file_copy(const Block& from, const Block& to, std::size_t bytes, Random& random);
  void direct_copy(const Block& from, const Block& to, std::size_t bytes, Random& random);
  void process_copy(const Block& from, const Block& to, std::size_t bytes, Random& random);
  void message_copy(const Block& from, const Block& to, std::size_t bytes, Random& random);
  void futex_word(const Block& from, const Block& to, std::size_t bytes, Random& random);
  void signal_stack(const Block& from, const Block& to, std::size_t bytes, Random& random);
  void small_results(const Block& from, const Block& to, std::size_t bytes, Random& random);
  void names(const Block& from, const Block& to, std::size_t bytes, Random& random);
  void locked(const Block& from, const Block& to, std::size_t bytes, Random& random);

  int pipe_[2] = {-1, -1};
  int sockets_[2] = {-1, -1};
  int file_ = -1, direct_ = -1;
  std::uint64_t calls_ = 0;
  char directory_[512] = {};
};

}  // namespace paging_test
