// What an executable file is, as far as LD_PRELOAD is concerned.
#pragma once
#include <cstdint>
#include <string>

namespace glebe::tool {

struct ElfFile {
  bool is_elf = false;
  bool is_64_bit = false;
  bool is_shared = false;        // ET_DYN
  bool has_interpreter = false;  // PT_INTERP: the dynamic loader starts it, and obeys LD_PRELOAD
  std::uint16_t machine = 0;
};
[[nodiscard]] ElfFile read_elf(const std::string& path);

// The path that execvp would run for `name`. Throws Problem when there is none, or none that may be executed.
[[nodiscard]] std::string find_program(const std::string& name);

// Throws Problem when a library cannot be preloaded into the program: it is linked statically, for another
// machine, or changes user, group or capabilities when it starts. A script counts as its interpreter.
void check_program(const std::string& path, const std::string& library);

}  // namespace glebe::tool
