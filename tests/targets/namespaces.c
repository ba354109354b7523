/* One library in several link-map namespaces (dlmopen), each with its own data: the first copy lies below the
 * others. With "first" that one is closed half-way, with "last" the last one. */
#include "hazard.h"
#include <dlfcn.h>
#include <sys/mman.h>

#define COPIES 3

int main(int count, char **arguments)
{
    void *handle[COPIES];
    long (*plugged[COPIES])(long);
    CHECK(count == 3);
    gate("ready");
    void *hole = mmap(0, 64 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < COPIES; i++) {
        handle[i] = i ? dlmopen(LM_ID_NEWLM, arguments[1], RTLD_NOW) : dlopen(arguments[1], RTLD_NOW);
        CHECK(handle[i]);
        if (!i)
            munmap(hole, 64 << 20);
        plugged[i] = (long (*)(long))dlsym(handle[i], "plugged");
        CHECK(plugged[i]);
    }
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < COPIES; i++)
            CHECK(!plugged[i] || plugged[i](round) == round * 3 + 1);
        if (round == 9) {
            gate("half");
            int closed = !strcmp(arguments[2], "first") ? 0 : !strcmp(arguments[2], "last") ? COPIES - 1 : -1;
            if (closed >= 0) {
                CHECK(dlclose(handle[closed]) == 0);
                plugged[closed] = 0;
            }
        }
    }
    gate("called");
    return finish();
}
