// The command line tool. Each verb is a file of its own; this one reads the command line and turns errors
// into a message and an exit status.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "tools/glebe/build_paths.h"
#include "tools/glebe/problem.h"
#include "tools/glebe/run.h"

int main(int argc, char** argv) {
  // What stands behind "--" is not ours to read.
  char** const end = std::find(argv, argv + argc, std::string("--"));
  const std::vector<std::string> rest(end, argv + argc);
  CLI::App app{"glebe: programs in less memory", "glebe"};
  app.set_version_flag("--version", glebe::tool::kVersion);
  app.require_subcommand(1);
  int status = 0;
  glebe::tool::add_run(app, rest, &status);
  try {
    app.parse(static_cast<int>(end - argv), argv);
  } catch (const CLI::ParseError& error) {
    const int result = app.exit(error);
    return result == 0 ? 0 : glebe::tool::kBadUse;
  } catch (const glebe::tool::Problem& problem) {
    fmt::print(stderr, "glebe: {}\n", problem.what());
    return problem.status();
  } catch (const std::exception& error) {
    fmt::print(stderr, "glebe: {}\n", error.what());
    return glebe::tool::kBadUse;
  }
  return status;
}
