// The long mode: threads churn for a given time with every check on, while RSS and live bytes are sampled.
#pragma once

#include "bench/workloads.h"

namespace torture {

// Runs in the child. Sends a sample about every second, one after everything was freed, and a result.
void run_soak(Context& context, unsigned seconds);

}  // namespace torture
