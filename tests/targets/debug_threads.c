/* Threads that call `probed` all the time, each as often as it is told to; then `exec` if asked. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static long calls;
static __thread long own;
static long turns;

__attribute__((noinline)) void probed(void)
{
    __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    own++;
}

static void *work(void *argument)
{
    for (long n = 0; n < turns; n++)
        probed();
    return argument;
}

int main(int argc, char **argv)
{
    pthread_t threads[4];
    turns = argc > 1 ? atol(argv[1]) : 100;
    printf("ready\n");
    fflush(stdout);
    getchar();
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, work, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    printf("calls %ld\n", calls);
    fflush(stdout);
    if (argc > 2)
        execl("/bin/echo", "echo", "OK", NULL);
    printf("OK\n");
    return 0;
}
