/* Loads two libraries, of which one is mounted over the other: maps shows one path for both. */
#include "hazard.h"
#include <dlfcn.h>

int main(int count, char **arguments)
{
    long (*plugged[2])(long);
    CHECK(count == 3);
    for (int i = 0; i < 2; i++) {
        void *library = dlopen(arguments[i + 1], RTLD_NOW);
        CHECK(library);
        plugged[i] = (long (*)(long))dlsym(library, "plugged");
        gate(i ? "ready" : "loaded");
    }
    CHECK(plugged[0] != plugged[1]);
    for (long n = 0; n < 50; n++)
        for (int i = 0; i < 2; i++)
            CHECK(plugged[i](n) == n * 3 + 1);
    gate("stopped");
    return finish();
}
