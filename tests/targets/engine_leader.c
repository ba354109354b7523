/* The leading thread ends first; another goes on, and loads a library on request. */
#include "hazard.h"
#include <dlfcn.h>
#include <pthread.h>

static pthread_t leader;

static void *work(void *library)
{
    CHECK(pthread_join(leader, 0) == 0);
    gate("alone");
    for (int i = 0; i < 20; i++)
        probed();
    if (library) {
        void *handle = dlopen(library, RTLD_NOW);
        CHECK(handle);
        ((void (*)(void))dlsym(handle, "plugged"))();
        for (int i = 0; i < 20; i++)
            probed();
    }
    gate("worked");
    gate("stopped");
    exit(finish());
}

int main(int argc, char **argv)
{
    pthread_t thread;
    leader = pthread_self();
    gate("ready");
    CHECK(pthread_create(&thread, 0, work, argc > 1 ? argv[1] : 0) == 0);
    pthread_exit(0);
}
