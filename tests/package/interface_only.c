/* A program that takes the C interface without the replacement of malloc: exits 0 when glebe's blocks are
   glebe's and malloc's are not. */
#include <glebe/glebe.h>
#include <stdlib.h>

int main(void) {
  void* ours = glebe_malloc(100);
  void* volatile theirs = malloc(100);
  const int is_ours = ours != NULL && glebe_owns(ours) == 1;
  const int is_theirs = theirs != NULL && glebe_owns(theirs) == 0;
  glebe_free(ours);
  free(theirs);
  return is_ours && is_theirs ? 0 : 1;
}
