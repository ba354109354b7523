/* Executes itself again and again, by a thread that is not the leader, while others are busy. */
#include "hazard.h"
#include <pthread.h>

static char **arguments;

static void *busy(void *unused)
{
    for (;;)
        probed();
    return unused;
}

static void *execute(void *left)
{
    static char count[24];
    snprintf(count, sizeof count, "%ld", (long)left - 1);
    arguments[1] = count;
    execv("/proc/self/exe", arguments);
    CHECK(0);
    return left;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    long left = argc > 1 ? atol(argv[1]) : 0;
    arguments = argv;
    if (!argv[2])
        exit(3);
    if (*argv[2] == '1') {
        *argv[2] = '0';
        gate("ready");
    }
    if (left > 0) {
        for (int i = 0; i < 4; i++)
            CHECK(pthread_create(&thread, 0, busy, 0) == 0);
        for (int i = 0; i < 5; i++)
            probed();
        CHECK(pthread_create(&thread, 0, execute, (void *)left) == 0);
        pthread_join(thread, 0);
    }
    gate("stopped");
    return finish();
}
