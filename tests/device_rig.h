// What the tests of src/device share: an emulated GPU with kernels, opened as a device::Gpu, and the look at
// the end that nothing is left in the driver.
#pragma once

#include "platform/cuda/failing.h"
#include "src/device/gpu.h"
#include "tests/gpu_rig.h"

namespace device_test {

using namespace glebe::device;
using glebe::kGiB;
using glebe::kKiB;
using glebe::kMiB;
using gpu_test::EmulatedGpu;
using gpu_test::FailingDriver;
using gpu_test::Gate;
using gpu_test::GpuSchedule;
using gpu_test::Rig;

inline constexpr std::size_t kGranule = gpu_test::kGranule;

// Runs body(rig, gpu) on an emulator that was opened with these options, and looks that nothing is left in
// it. The rig makes streams, pinned memory and kernel launches; the table goes through rig.driver.
template <class Body>
void on_gpu(const EmulatedGpu::Options& options, Body body) {
  gpu_test::on_emulator(options, [&](Rig& rig) {
    Gpu gpu;
    REQUIRE(gpu.open(rig.driver).ok());
    body(rig, gpu);
    gpu.close();
    CHECK(rig.emulated->usage().undefined_calls == 0);
  });
}

// The same with calls that can be made to fail: body(rig, gpu, failing).
template <class Body>
void on_failing_gpu(const EmulatedGpu::Options& options, Body body) {
  gpu_test::on_emulator(options, [&](Rig& rig) {
    FailingDriver failing(rig.driver);
    Gpu gpu;
    REQUIRE(gpu.open(failing.driver()).ok());
    body(rig, gpu, failing);
    failing.stop_failing();
    gpu.close();
    CHECK(rig.emulated->usage().undefined_calls == 0);
  });
}

}  // namespace device_test
