#include "tools/glebe/run.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>

#include "tools/glebe/library_file.h"
#include "tools/glebe/memory_limit.h"
#include "tools/glebe/problem.h"
#include "tools/glebe/program_file.h"
#include "tools/glebe/summary.h"

extern char** environ;

namespace glebe::tool {
namespace {

struct RunArguments {
  std::string memory, directory, codec, json, library;
  std::vector<std::string> options, command;
};

// A folder for the numbers of each process, gone at the end.
class StatisticsFolder {
 public:
  StatisticsFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "glebe-run-XXXXXX").string();
    if (name.find(',') != std::string::npos || ::mkdtemp(name.data()) == nullptr) {
      throw Problem(
          fmt::format("no temporary folder {}: {}; set TMPDIR to a folder that may be written and has no "
                      "comma in its name",
                      name, std::strerror(errno)));
    }
    path_ = name;
  }
  StatisticsFolder(const StatisticsFolder&) = delete;
  StatisticsFolder& operator=(const StatisticsFolder&) = delete;
  ~StatisticsFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void check_directory(const std::string& directory) {
  struct stat info {};
  const char* advice = "name a folder for page files that exists and may be written";
  if (::stat(directory.c_str(), &info) != 0) {
    throw Problem(fmt::format("--directory {}: {}; {}", directory, std::strerror(errno), advice));
  }
  if (!S_ISDIR(info.st_mode))
    throw Problem(fmt::format("--directory {}: not a folder; {}", directory, advice));
  if (::access(directory.c_str(), W_OK | X_OK) != 0) {
    throw Problem(fmt::format("--directory {}: {}; {}", directory, std::strerror(errno), advice));
  }
}

void check_entry(const char* option, const std::string& value) {
  if (value.find(',') != std::string::npos) {
    throw Problem(fmt::format("{} {}: a comma separates entries of GLEBE_OPTIONS and cannot be part of one",
                              option, value));
  }
}

// GLEBE_OPTIONS as it was, then what the arguments mean, then --option: the last entry of a name counts.
std::string options_text(const RunArguments& arguments, const std::optional<MemoryWish>& memory,
                         const std::string& statistics) {
  std::vector<std::string> entries;
  const char* before = ::getenv("GLEBE_OPTIONS");
  if (before != nullptr && *before != '\0') entries.emplace_back(before);
  entries.emplace_back("paging=auto");
  if (memory) entries.push_back("memory=" + memory->option);
  if (!arguments.directory.empty()) {
    check_directory(arguments.directory);
    const std::string absolute = std::filesystem::absolute(arguments.directory).string();
    check_entry("--directory", absolute);
    entries.push_back("page_directory=" + absolute);
  }
  if (!arguments.codec.empty()) entries.push_back("page_codec=" + arguments.codec);
  for (const std::string& option : arguments.options) {
    const std::size_t equals = option.find('=');
    if (equals == 0 || equals == std::string::npos) {
      throw Problem(
          fmt::format("--option {}: not of the form name=value; docs/options.md lists the options", option));
    }
    check_entry("--option", option);
    entries.push_back(option);
  }
  entries.push_back("stats_file=" + statistics + "/%p.json");
  return fmt::format("{}", fmt::join(entries, ","));
}

std::vector<std::string> environment_with(const std::string& preload, const std::string& options) {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (text.rfind("LD_PRELOAD=", 0) != 0 && text.rfind("GLEBE_OPTIONS=", 0) != 0)
      environment.push_back(text);
  }
  environment.push_back("LD_PRELOAD=" + preload);
  environment.push_back("GLEBE_OPTIONS=" + options);
  return environment;
}

void write_json(const std::string& path, const nlohmann::json& json) {
  std::ofstream file(path);
  file << json.dump(2) << "\n";
  file.close();
  if (!file) throw Problem(fmt::format("--json {}: cannot be written: {}", path, std::strerror(errno)));
}

int run(const RunArguments& arguments) {
  if (arguments.command.empty()) {
    throw Problem(
        "run: the program is missing; write it behind the options: glebe run --memory 512M -- program "
        "arguments");
  }
  if (arguments.command[0].rfind("--", 0) == 0) {
    throw Problem(
        fmt::format("run: there is no option {}; glebe run --help lists them", arguments.command[0]));
  }
  Summary summary;
  summary.command = arguments.command;
  std::optional<MemoryWish> memory;
  if (!arguments.memory.empty()) memory = parse_memory(arguments.memory);
  if (memory) summary.memory_bytes = memory->bytes;
  const std::string library = find_library(arguments.library);
  const std::string program = find_program(arguments.command[0]);
  check_program(program, library);
  const StatisticsFolder statistics;
  summary.options = options_text(arguments, memory, statistics.path());
  if (!arguments.json.empty()) write_json(arguments.json, nlohmann::json::object());  // before hours of work
  const Launch launch{program, arguments.command,
                      environment_with(preload_value(library, ::getenv("LD_PRELOAD")), summary.options)};
  Sampler sampler;
  summary.ended = run_to_end(launch, [&](int process) { sampler.sample(process); });
  summary.seen = sampler.figures();
  summary.counted = read_statistics(statistics.path());
  fmt::print(stderr, "{}", summary_text(summary));
  if (!arguments.json.empty()) write_json(arguments.json, summary_json(summary));
  return summary.ended.exit_status();
}

}  // namespace

void add_run(CLI::App& app, const std::vector<std::string>& rest, int* status) {
  CLI::App* verb = app.add_subcommand("run",
                                      "Runs a program under libglebe.so with its cold memory paged out, and "
                                      "prints a summary on standard error.");
  auto arguments = std::make_shared<RunArguments>();
  verb->add_option(
      "--memory", arguments->memory,
      "Anonymous memory of each process: 512M, 50% (of the memory cgroup or the machine) or auto");
  verb->add_option("--directory", arguments->directory,
                   "Folder for page files; without one, cold memory is "
                   "compressed in RAM only");
  verb->add_option("--codec", arguments->codec, "Compression: lz4 or zstd")
      ->check(CLI::IsMember({"lz4", "zstd"}));
  verb->add_option("--option", arguments->options, "An entry name=value for GLEBE_OPTIONS; may be repeated")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  verb->add_option("--json", arguments->json, "Writes the summary and all numbers to this file");
  verb->add_option("--library", arguments->library,
                   "The libglebe.so to use instead of the one that belongs to "
                   "this tool");
  verb->prefix_command();  // from the first word that is no option on, all belongs to the program
  verb->footer(
      "The exit status is that of the program, 128 + n when signal n ended it, 125 for a wrong use,\n"
      "126 and 127 when the program cannot be executed or found.");
  verb->callback([verb, arguments, rest, status] {
    // A "--" behind the name of the program is an argument of the program.
    arguments->command = verb->remaining();
    const bool is_named = !arguments->command.empty();
    arguments->command.insert(arguments->command.end(), rest.begin() + (rest.empty() || is_named ? 0 : 1),
                              rest.end());
    *status = run(*arguments);
  });
}

}  // namespace glebe::tool
