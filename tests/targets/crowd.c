/* Three hundred threads that call probed() without pause, until the test says stop. */
#include "hazard.h"
#include <pthread.h>

enum { THREADS = 300 }; /* their stacks fill more than 2 GiB */
static volatile int stop;
static long mine[THREADS];

static void *work(void *argument)
{
    long *count = argument;
    while (!stop) {
        probed();
        ++*count;
        usleep(1000);
    }
    return 0;
}

int main(void)
{
    pthread_t threads[THREADS];
    long sum = 0;
    for (long i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], 0, work, &mine[i]) == 0);
    gate("ready");
    stop = 1;
    for (long i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], 0) == 0);
        sum += mine[i];
    }
    CHECK(sum == calls);
    gate("stopped");
    return finish();
}
