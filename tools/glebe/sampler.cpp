#include "tools/glebe/sampler.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "tools/glebe/memory_limit.h"

namespace glebe::tool {
namespace fs = std::filesystem;
namespace {

struct Memory {
  std::uint64_t rss = 0, anonymous = 0, swapped = 0;
};

// A process that has just ended counts nothing.
Memory memory_of(int process) {
  Memory memory;
  std::ifstream status("/proc/" + std::to_string(process) + "/status");
  for (std::string line; std::getline(status, line);) {
    const auto kib = [&] { return std::strtoull(line.c_str() + line.find(':') + 1, nullptr, 10) * 1024; };
    if (line.rfind("VmRSS:", 0) == 0) memory.rss = kib();
    if (line.rfind("RssAnon:", 0) == 0) memory.anonymous = kib();
    if (line.rfind("VmSwap:", 0) == 0) memory.swapped = kib();
  }
  return memory;
}

bool lists_children() {
  static const bool exists = fs::exists("/proc/thread-self/children");
  return exists;
}

// The kernel lists the children of each thread, where it was built with that.
std::vector<int> children_of(int process) {
  std::vector<int> children;
  std::error_code error;
  for (const auto& task : fs::directory_iterator("/proc/" + std::to_string(process) + "/task", error)) {
    std::ifstream list(task.path() / "children");
    for (int child = 0; list >> child;) children.push_back(child);
  }
  return children;
}

std::map<int, std::vector<int>> all_children() {
  std::map<int, std::vector<int>> children;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const int process = std::atoi(entry.path().filename().c_str());
    if (process <= 0) continue;
    std::ifstream stat(entry.path() / "stat");
    std::string line;
    if (!std::getline(stat, line) || line.rfind(')') == std::string::npos) continue;
    std::istringstream rest(line.substr(line.rfind(')') + 1));
    char state = 0;
    int parent = 0;
    if (rest >> state >> parent) children[parent].push_back(process);
  }
  return children;
}

std::vector<int> tree_of(int process) {
  std::vector<int> tree = {process};
  if (lists_children()) {
    for (std::size_t i = 0; i < tree.size(); ++i) {
      for (const int child : children_of(tree[i])) tree.push_back(child);
    }
    return tree;
  }
  const std::map<int, std::vector<int>> children = all_children();
  for (std::size_t i = 0; i < tree.size(); ++i) {
    const auto found = children.find(tree[i]);
    if (found != children.end()) tree.insert(tree.end(), found->second.begin(), found->second.end());
  }
  return tree;
}

}  // namespace

void Sampler::sample(int process) {
  Memory total;
  const std::vector<int> tree = tree_of(process);
  for (const int member : tree) {
    const Memory memory = memory_of(member);
    total.rss += memory.rss;
    total.anonymous += memory.anonymous;
    total.swapped += memory.swapped;
  }
  ++figures_.samples;
  figures_.sum_rss += total.rss;
  figures_.sum_anonymous += total.anonymous;
  figures_.peak_rss = std::max(figures_.peak_rss, total.rss);
  figures_.peak_anonymous = std::max(figures_.peak_anonymous, total.anonymous);
  figures_.peak_swapped = std::max(figures_.peak_swapped, total.swapped);
  figures_.peak_processes = std::max(figures_.peak_processes, tree.size());
  const std::string name = std::to_string(process);
  if (figures_.samples == 1) figures_.cgroup_limit = cgroup_limit_bytes(name);
  if (!figures_.cgroup_limit) return;  // not limited: its usage says nothing about this program
  const std::optional<std::uint64_t> usage = cgroup_usage_bytes(name);
  if (usage) figures_.cgroup_peak = std::max(figures_.cgroup_peak.value_or(0), *usage);
}

}  // namespace glebe::tool
