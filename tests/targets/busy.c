/* Calls a function as often as it can: first alone, then while the test has it probed. */
#include "hazard.h"
#include <time.h>

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void rush(const char *when, long nanoseconds)
{
    long before = calls, begin = now();
    while (now() - begin < nanoseconds)
        for (int i = 0; i < 100; i++)
            probed();
    say("%s %ld\n", when, (calls - before) * 1000 / ((now() - begin) / 1000000));
}

int main(void)
{
    gate("ready");
    rush("alone", 300000000L);
    say("before %ld\n", calls);
    gate("probed");
    rush("second", 1000000000L);
    rush("third", 1000000000L);
    say("calls %ld\n", calls);
    gate("stopped");
    return finish();
}
