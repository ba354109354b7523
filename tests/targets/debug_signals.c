/* Signals that a debugger lets through, holds back or sends: the handlers count. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static volatile long first, second;

static void count(int number)
{
    if (number == SIGUSR1)
        first++;
    else
        second++;
}

__attribute__((noinline)) void probed(long n)
{
    __asm__ volatile("" ::"r"(n));
    raise(SIGUSR1);
}

int main(void)
{
    signal(SIGUSR1, count);
    signal(SIGUSR2, count);
    printf("ready\n");
    fflush(stdout);
    getchar();
    for (long n = 1; n <= 3; n++)
        probed(n);
    printf("first %ld\nsecond %ld\nOK\n", first, second);
    return 0;
}
