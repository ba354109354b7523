/* A library that calls one function of another's, by a word in a page of its own. */
#include <unistd.h>

int parent(void) { return getppid(); }
