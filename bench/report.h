// What the user sees of a comparison: tables, JSON, the verdict of the gate.
#pragma once

#include <nlohmann/json.hpp>

#include "bench/compare.h"
#include "bench/machine.h"

namespace torture {

void print_heading(const Options& options, const Machine& machine);
void print_report(const Options& options, const Comparison& comparison);

// Prints for each limit whether it is kept. False when one is not.
[[nodiscard]] bool print_gate(const Options& options, const Comparison& comparison);

// What every figure must carry: commit, machine, seed, repeat count, settings of the environment.
[[nodiscard]] nlohmann::json describe_run(const Options& options, const Machine& machine);
[[nodiscard]] nlohmann::json describe_comparison(const Comparison& comparison);

// Throws std::runtime_error when the file cannot be written.
void write_text(const std::string& file, const std::string& text);

}  // namespace torture
