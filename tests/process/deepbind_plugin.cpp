// A plugin as language runtimes load them: opened with RTLD_DEEPBIND, so that its own malloc and free would
// bind to libc first and cross allocators with the program (hardening rule 4).
#include <cstdlib>
#include <cstring>

extern "C" {
void* plugin_malloc(std::size_t size) { return std::malloc(size); }
void plugin_free(void* block) { std::free(block); }
void* plugin_realloc(void* block, std::size_t size) { return std::realloc(block, size); }
char* plugin_strdup(const char* text) { return strdup(text); }

// A constructor of a library that is opened late allocates as well.
void* plugin_early = nullptr;
__attribute__((constructor)) void plugin_start() { plugin_early = std::malloc(700); }
void* plugin_early_block() { return plugin_early; }
}
