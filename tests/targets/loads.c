/* dlopen and dlclose of a library, each time at another base. */
#include "hazard.h"
#include <dlfcn.h>
#include <sys/mman.h>

int main(int count, char **arguments)
{
    void *last = 0;
    long plugged_calls = 0;
    int moved = 0;
    CHECK(count == 2);
    gate("ready");
    for (int round = 0; round < 8; round++) {
        void *library = dlopen(arguments[1], RTLD_NOW);
        CHECK(library);
        long (*plugged)(long) = (long (*)(long))dlsym(library, "plugged");
        CHECK(plugged);
        moved += plugged != last;
        last = plugged;
        for (long i = 0; i < 25; i++, plugged_calls++)
            CHECK(plugged(i) == i * 3 + 1);
        if (round == 3)
            gate("loaded");
        CHECK(dlclose(library) == 0);
        /* what now lies where the library was is not to be touched */
        unsigned char *page = (void *)((unsigned long)last & ~4095ul);
        void *taken = mmap(page, 4096, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        CHECK(taken == page);
        for (int i = 0; i < 4096; i++)
            CHECK(page[i] == 0);
        if (round == 5)
            gate("unloaded");
    }
    CHECK(moved == 8);
    gate("stopped");
    say("plugged %ld\n", plugged_calls);
    return finish();
}
