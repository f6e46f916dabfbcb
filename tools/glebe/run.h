// `glebe run`: a program under the preload library, with paging.
#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace glebe::tool {

// Adds the verb to the command line. When it was chosen, parsing runs the program and *status is the exit
// status of the tool. `rest` is what the command line holds from the first "--" on, which `app` does not see.
// Throws Problem.
void add_run(CLI::App& app, const std::vector<std::string>& rest, int* status);

}  // namespace glebe::tool
