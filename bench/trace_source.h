// Where the traces come from: programs recorded at run time and files recorded earlier, prepared for the
// replay.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace torture {

// A prepared trace in memory of the kernel; lives as long as the object. No file is left behind.
class PreparedTrace {
 public:
  explicit PreparedTrace(int descriptor) : descriptor_(descriptor) {}
  ~PreparedTrace();
  PreparedTrace(const PreparedTrace&) = delete;
  PreparedTrace& operator=(const PreparedTrace&) = delete;

  // A path under which children of this process can open it.
  [[nodiscard]] std::string path() const;

 private:
  int descriptor_;
};

// Reads a recorded trace. Throws std::runtime_error with a message when it is not one or holds nothing.
[[nodiscard]] std::unique_ptr<PreparedTrace> prepare_trace(const std::string& recorded_file);

// Runs `program` (found in PATH unless it holds a slash) with the recorder; the trace must not exist. Throws
// std::runtime_error when the recorder is not built or the program fails.
void record_trace(const std::string& file, const std::vector<std::string>& program,
                  const std::vector<std::string>& environment, bool quiet);

// Records the program of this name from the list of the workloads and prepares its trace. Throws as above,
// also when the program is not installed.
[[nodiscard]] std::unique_ptr<PreparedTrace> record_known_program(const std::string& name);

}  // namespace torture
