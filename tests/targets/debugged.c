/* Work in two layers and some threads, for a debugger to stop in: each call of `probed` adds its
 * argument to `total`, and the right total is known. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

volatile long total;
volatile long factor = 1;
static volatile int stop;
static __thread volatile long turns;

__attribute__((noinline)) void probed(long n)
{
    long doubled = 2 * n;
    total += n * factor;
    if (doubled < 0)
        printf("negative\n");
}

__attribute__((noinline)) void outer(long count)
{
    for (long n = 1; n <= count; n++)
        probed(n);
}

static void *turn(void *argument)
{
    while (!stop)
        turns++;
    return argument;
}

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 100;
    int workers = argc > 2 ? atoi(argv[2]) : 0;
    pthread_t threads[8];
    for (int i = 0; i < workers && i < 8; i++)
        pthread_create(&threads[i], NULL, turn, NULL);
    printf("ready\n");
    fflush(stdout);
    getchar();
    outer(count);
    stop = 1;
    for (int i = 0; i < workers && i < 8; i++)
        pthread_join(threads[i], NULL);
    printf("total %ld\nOK\n", total);
    return 0;
}
