/* An IFUNC, called from a constructor and from main. With -DLIBRARY: the function alone. */
static long chosen(long n)
{
    return n * 3 + 1;
}

static long (*choose(void))(long)
{
    return chosen;
}

long plugged(long) __attribute__((ifunc("choose")));

#ifndef LIBRARY
#include "hazard.h"

static long early;

__attribute__((constructor)) static void begin(void)
{
    early = plugged(1);
}

int main(void)
{
    CHECK(early == 4);
    for (long i = 0; i < 20; i++)
        CHECK(plugged(i) == i * 3 + 1);
    return finish();
}
#endif
