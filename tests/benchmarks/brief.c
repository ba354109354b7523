/* Lives for as many microseconds as it is told (0: until its input ends), and calls `tick` a
   thousand times meanwhile. Says on standard output when it began, in ns. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

__attribute__((noipa)) void tick(void)
{
    __asm__ volatile("nop");
}

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

int main(int count, char **arguments)
{
    long start = now(), life = count > 1 ? atol(arguments[1]) * 1000 : 0;
    struct timespec nap = {0, life / 1000};
    char byte;
    printf("%ld\n", start);
    fflush(stdout);
    if (!life)
        return read(0, &byte, 1) != 0;
    while (now() - start < life) {
        tick();
        nanosleep(&nap, 0);
    }
    return 0;
}
