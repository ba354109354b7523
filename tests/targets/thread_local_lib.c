/* A library with thread-local variables: MODEL says how its code finds them. */
#ifndef MODEL
#define MODEL "global-dynamic"
#endif
static __thread char padding[5] __attribute__((used)) = "1234";
__thread long lib_mine __attribute__((tls_model(MODEL))) = 40;

__attribute__((noinline)) void lib_there(long *where) { __asm__ volatile("" ::"r"(where) : "memory"); }

void lib_here(void);
void lib_here(void) { lib_there(&lib_mine); }
