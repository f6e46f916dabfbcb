// The closing summary of `glebe run`: what was seen from outside, and what the library counted in the
// processes that ended by exit().
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "tools/glebe/launch.h"
#include "tools/glebe/sampler.h"

namespace glebe::tool {

struct Summary {
  std::vector<std::string> command;
  std::optional<std::uint64_t> memory_bytes;  // what was asked for
  std::string options;                        // GLEBE_OPTIONS of the program
  Ended ended;
  Sampler::Figures seen;
  std::vector<nlohmann::json> counted;  // one snapshot for each process that left one; docs/stats.md
};

// The files that the library wrote into the folder at the end of each process.
[[nodiscard]] std::vector<nlohmann::json> read_statistics(const std::string& folder);

[[nodiscard]] std::string summary_text(const Summary& summary);
[[nodiscard]] nlohmann::json summary_json(const Summary& summary);

}  // namespace glebe::tool
