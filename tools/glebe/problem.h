// An error of the tool: one text that says what is wrong, where, and what to do about it.
#pragma once
#include <stdexcept>
#include <string>

namespace glebe::tool {

// Exit statuses besides that of the program, as those of env(1) and timeout(1).
inline constexpr int kBadUse = 125;  // the command line, the library or the surroundings are wrong
inline constexpr int kNotExecutable = 126;
inline constexpr int kNotFound = 127;
inline constexpr int kSignalBase = 128;  // plus the number of the signal that ended the program

class Problem : public std::runtime_error {
 public:
  explicit Problem(const std::string& text, int status = kBadUse)
      : std::runtime_error(text), status_(status) {}
  [[nodiscard]] int status() const { return status_; }

 private:
  int status_;
};

}  // namespace glebe::tool
