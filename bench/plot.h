// Pictures as SVG text: no program, no display and no network is needed to make or to see them.
#pragma once

#include <string>
#include <vector>

#include "bench/compare.h"
#include "bench/soak_run.h"

namespace torture {

// Dots of the ratios to the reference on a logarithmic axis: one panel for time, one for peak RSS.
[[nodiscard]] std::string plot_comparison(const Comparison& comparison);

// RSS and live bytes over time, and their quotient below.
[[nodiscard]] std::string plot_soaks(const std::vector<Soak>& soaks);

}  // namespace torture
