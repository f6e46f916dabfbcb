/* The probe for a C program, which has no C++ runtime in it: exits 0 only when malloc and its family lie in
   the library that defines glebe_version, 2 when no glebe is loaded, 1 otherwise. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char* const names[] = {"malloc",        "free",
                                    "calloc",        "realloc",
                                    "reallocarray",  "memalign",
                                    "valloc",        "pvalloc",
                                    "aligned_alloc", "posix_memalign",
                                    "cfree",         "malloc_usable_size",
                                    "free_sized",    "free_aligned_sized"};

static const void* base_of(const void* address) {
  Dl_info info;
  return dladdr(address, &info) != 0 ? info.dli_fbase : NULL;
}

int main(void) {
  const void* version = dlsym(RTLD_DEFAULT, "glebe_version");
  int (*owns)(const void*) = NULL;
  *(void**)&owns = dlsym(RTLD_DEFAULT, "glebe_owns");
  if (version == NULL || owns == NULL) return 2;
  int good = 1;
  for (size_t i = 0; i < sizeof names / sizeof names[0]; ++i) {
    const void* found = dlsym(RTLD_DEFAULT, names[i]);
    if (found != NULL && base_of(found) == base_of(version)) continue;
    fprintf(stderr, "override_probe_c: %s is not in the library\n", names[i]);
    good = 0;
  }
  void* volatile plain = malloc(100);
  void* volatile zeroed = calloc(10, 10);
  char* line = NULL;
  size_t room = 0;
  FILE* file = fopen("/proc/self/maps", "r");
  const int read_line = file != NULL && getline(&line, &room, file) > 0;
  good = good && owns(plain) == 1 && owns(zeroed) == 1 && read_line && owns(line) == 1 && owns(&good) == 0;
  if (file != NULL) fclose(file);
  free(line);
  free(plain);
  free(zeroed);
  return good ? 0 : 1;
}
