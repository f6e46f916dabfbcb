// Finding libglebe.so and the value of LD_PRELOAD.
#pragma once
#include <string>

namespace glebe::tool {

// The absolute path of the library: the one that the user named, or the first of those beside the tool, in
// the library folder of the tool's prefix, in the build folder and where it was to be installed. Throws
// Problem.
[[nodiscard]] std::string find_library(const std::string& named);

// Ours first, then what was there before without ours.
[[nodiscard]] std::string preload_value(const std::string& library, const char* before);

}  // namespace glebe::tool
