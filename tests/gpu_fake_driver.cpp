// A library that looks like the driver of a GPU to the loader, built as libraries of its own so that the
// loader can be shown every kind of absence. GLEBE_FAKE_CUDA in the environment says what it is: "old"
// (version 11.8), "stub", "no device", "not ready", "failed", "missing" (one symbol is unknown); otherwise a
// driver with two devices. Compiled with GLEBE_FAKE_WITHOUT_LOOKUP it lacks the symbol by which all others
// are found.
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

bool is(const char* kind) {
  const char* wanted = std::getenv("GLEBE_FAKE_CUDA");
  return wanted != nullptr && std::strcmp(wanted, kind) == 0;
}

int init(unsigned) { return is("no device") ? 100 : is("not ready") ? 802 : is("failed") ? 999 : 0; }
int version(int* value) {
  *value = is("old") ? 11080 : 13000;
  return 0;
}
int device_count(int* count) {
  *count = is("none counted") ? 0 : 2;
  return 0;
}
int anything() { return 801; }

}  // namespace

extern "C" __attribute__((visibility("default"))) int GLEBE_FAKE_LOOKUP(const char* symbol, void** function,
                                                                        int wanted, std::uint64_t flags,
                                                                        int* status) {
  if (is("stub")) return 34;
  if (wanted > 13000 || flags != 0) return 1;
  *status = 0;
  *function = reinterpret_cast<void*>(anything);
  if (std::strcmp(symbol, "cuInit") == 0) *function = reinterpret_cast<void*>(init);
  if (std::strcmp(symbol, "cuDriverGetVersion") == 0) *function = reinterpret_cast<void*>(version);
  if (std::strcmp(symbol, "cuDeviceGetCount") == 0) *function = reinterpret_cast<void*>(device_count);
  if (is("missing") && std::strcmp(symbol, "cuMemMap") == 0) {
    *function = nullptr;
    *status = 1;
  }
  return 0;
}
