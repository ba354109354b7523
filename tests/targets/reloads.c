/* dlopen and dlclose of libraries, one after the other, each at the base of the one before. */
#include "hazard.h"
#include <dlfcn.h>

int main(int count, char **arguments)
{
    void *first = 0;
    gate("ready");
    for (int round = 0; round < 4; round++)
        for (int each = 1; each < count; each++) {
            void *library = dlopen(arguments[each], RTLD_NOW);
            CHECK(library);
            long (*plugged)(long) = (long (*)(long))dlsym(library, "plugged");
            CHECK(plugged);
            void *page = (void *)((unsigned long)plugged & ~4095ul);
            CHECK(!first || page == first);
            first = page;
            for (long i = 0; i < 25; i++)
                CHECK(plugged(i) == i * 3 + 1);
            CHECK(dlclose(library) == 0);
        }
    gate("closed");
    return finish();
}
