/* Signals that a debugger lets through, holds back or sends: the handlers count. The first is known
 * by its sender. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static volatile long first, second;

static void count(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (number == SIGUSR1)
        first += info->si_pid == getpid() ? 1 : 100;
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
    struct sigaction action = {.sa_sigaction = count, .sa_flags = SA_SIGINFO};

    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    printf("ready\n");
    fflush(stdout);
    getchar();
    for (long n = 1; n <= 3; n++)
        probed(n);
    printf("first %ld\nsecond %ld\nOK\n", first, second);
    return 0;
}
