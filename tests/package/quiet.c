/* Never names an allocation function itself, so that nothing in it refers to an archive that replaces malloc.
   strdup inside libc allocates all the same. Exits 0 when that block comes from glebe. */
#include <string.h>

__attribute__((weak)) int glebe_owns(const void* address);

int main(void) {
  char* volatile text = strdup("allocated by libc");
  return glebe_owns != NULL && glebe_owns(text) == 1 ? 0 : 1;
}
