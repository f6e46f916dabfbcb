// What the rows of the bench of device memory share: the GPU that they run on, repeats, figures and their way
// into the table and the JSON file.
//
// A row that an emulated GPU cannot measure honestly runs there only with --smoke, to show that its code
// works; its figures are then neither printed nor written.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "src/device/gpu.h"

namespace device_bench {

using namespace glebe::device;
using glebe::kGiB;
using glebe::kKiB;
using glebe::kMiB;

struct Options {
  std::string driver = "auto";  // auto: the real one where there is one
  bool is_smoke = false;
  unsigned rounds = 5;
  std::vector<std::string> only;
  std::string json;
  std::string directory = "/tmp";  // of page files
  std::uint64_t seed = 1;
  double scale = 1;  // of the bytes that the rows for a GPU move
};

// Of repeated measurements of one thing.
struct Figure {
  std::string what;  // "ours, 4 KiB, 1000 live"
  std::string unit;  // "ns", "GB/s", "x"
  std::vector<double> runs;
  std::string note;  // "simulated", or empty
};

[[nodiscard]] double median_of(std::vector<double> runs);

class Report {
 public:
  Report(const Options& options, std::string machine_text, nlohmann::json machine);

  void begin(const std::string& id, const std::string& title, bool has_figures);
  void add(const Figure& figure);
  void add(const std::string& what, const std::string& unit, const std::vector<double>& runs,
           const std::string& note = "") {
    add(Figure{what, unit, runs, note});
  }
  void note(const std::string& text);  // a line below the row
  void skip(const std::string& reason);
  void end(const std::string& failure);  // empty: the row is complete. Writes the JSON file.

 private:
  void write() const;

  const Options& options_;
  nlohmann::json all_, row_;
  bool has_figures_ = true;
  unsigned figures_ = 0;
};

// What a row works with.
struct Bench {
  const Options& options;
  Report& report;
  Gpu& gpu;
  bool is_real;            // a GPU, not the emulator
  std::string why_no_gpu;  // when it is not

  [[nodiscard]] const cuda::Driver& driver() const { return gpu.driver(); }
  [[nodiscard]] unsigned rounds() const { return options.is_smoke ? 1 : options.rounds; }
  // Bytes for a real device, scaled and in whole `unit`s; or the tiny number for a look whether it works.
  [[nodiscard]] std::uint64_t bytes(std::uint64_t real, std::uint64_t tiny, std::uint64_t unit) const;
  [[nodiscard]] unsigned count(unsigned real, unsigned tiny) const { return options.is_smoke ? tiny : real; }
};

// The rows, each in the file of its theme.
void run_hits(Bench& bench);              // G1, device_hits.cpp
void run_free_blocks(Bench& bench);       // G2
void run_threads(Bench& bench);           // G3
void run_streams(Bench& bench);           // G4, device_streams.cpp
void run_minimum_memory(Bench& bench);    // G5, device_memory.cpp
void run_mapping(Bench& bench);           // G6, device_growth.cpp
void run_growth(Bench& bench);            // G7
void run_eviction(Bench& bench);          // G8, device_residency.cpp
void run_clean_eviction(Bench& bench);    // G9
void run_oversubscription(Bench& bench);  // G10
void run_sleep(Bench& bench);             // G14
void run_staging(Bench& bench);           // G11, device_transfer.cpp
void run_copies(Bench& bench);            // G13
void run_tiles(Bench& bench);             // G12, device_tiles.cpp

// End the row with a message.
[[noreturn]] void fail(const std::string& what);
void require(bool condition, const char* what);
void require(Outcome outcome, const char* what);
void require(cuda::Result result, const char* what);

[[nodiscard]] double seconds_of(const std::function<void()>& work);
// One run of `work` unmeasured, then `rounds` measured: seconds of each.
[[nodiscard]] std::vector<double> repeat(const Bench& bench, const std::function<void()>& work);
[[nodiscard]] std::vector<double> repeat_cold(const Bench& bench, const std::function<void()>& work);
// Each value as `numerator` / value.
[[nodiscard]] std::vector<double> rate(double numerator, std::vector<double> seconds);
[[nodiscard]] std::vector<double> times(double factor, std::vector<double> values);

[[nodiscard]] std::string size_text(std::uint64_t size_bytes);

// A stream of the bench.
class BenchStream {
 public:
  explicit BenchStream(const Bench& bench);
  ~BenchStream();
  BenchStream(const BenchStream&) = delete;
  BenchStream& operator=(const BenchStream&) = delete;
  [[nodiscard]] cuda::Stream get() const { return stream_; }
  void wait() const;

 private:
  const cuda::Driver& driver_;
  cuda::Stream stream_ = nullptr;
};

// Memory straight from the driver: of the device by cuMemAlloc, of the host by cuMemHostAlloc.
class DeviceBytes {
 public:
  DeviceBytes(const Bench& bench, std::uint64_t size_bytes);
  ~DeviceBytes();
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  [[nodiscard]] cuda::DevicePointer get() const { return address_; }

 private:
  const cuda::Driver& driver_;
  cuda::DevicePointer address_ = 0;
};

class PinnedBytes {
 public:
  PinnedBytes(const Bench& bench, std::uint64_t size_bytes);
  ~PinnedBytes();
  PinnedBytes(const PinnedBytes&) = delete;
  PinnedBytes& operator=(const PinnedBytes&) = delete;
  [[nodiscard]] std::byte* get() const { return static_cast<std::byte*>(address_); }

 private:
  const cuda::Driver& driver_;
  void* address_ = nullptr;
};

// The pool of the driver: whether there is one, and what it keeps when a stream is waited for (0 is its own
// setting). Setting it to 0 also gives back what it has kept.
[[nodiscard]] bool has_driver_pools(const Bench& bench);
void set_release_threshold(const Bench& bench, std::uint64_t threshold_bytes);

// How fast the device copies, in bytes per second: large copies, back to back, best of the rounds.
struct CopyRates {
  double upload, download, device;  // device: bytes copied, each read and written once
};
[[nodiscard]] CopyRates calibrate(const Bench& bench);

}  // namespace device_bench
