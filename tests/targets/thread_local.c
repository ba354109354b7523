/* Variables of which each thread has its own: the program's, and those of a library. */
#include "hazard.h"
#include <dlfcn.h>
#include <pthread.h>

static __thread char odd[3] __attribute__((used)) = "ab";
__thread long mine __attribute__((aligned(64))) = 7;
__thread long other;

/* Says where the calling thread has its own: a program may look, and compare. */
__attribute__((noinline)) void here(long *where, int *error) { __asm__ volatile("" ::"r"(where), "r"(error) : "memory"); }

#ifdef LIBRARY
void lib_here(void);
#endif

static void *thread(void *library)
{
    void (*call)(void) = (void (*)(void))library;
    other++;
    errno = EXDEV;
    here(&mine, &errno);
    if (call)
        call();
    say("mine %ld\n", mine);
    return NULL;
}

int main(int argc, char **argv)
{
    void *library = NULL;
    pthread_t second;
#ifdef LIBRARY
    library = (void *)lib_here;
#endif
    if (argc > 1) {
        gate("ready");
        void *opened = dlopen(argv[1], RTLD_NOW);
        CHECK(opened);
        library = dlsym(opened, "lib_here");
        CHECK(library);
        gate("opened");
    }
    thread(library);
    CHECK(!pthread_create(&second, NULL, thread, library));
    CHECK(!pthread_join(second, NULL));
    return 0;
}
