/* A timer's signal every millisecond, in one thread, whose lines a debugger steps through. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>

volatile long handled, forged, a, b, c;

static void handle(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    handled++;
    forged += info->si_code != SI_KERNEL;
}

__attribute__((noinline)) void probed(long n)
{
    a += n;
    b += a;
    c += b;
    a -= 1;
    b -= 2;
    c -= 3;
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};

    sigaction(SIGALRM, &action, NULL);
    printf("ready\n");
    fflush(stdout);
    getchar();
    setitimer(ITIMER_REAL, &often, NULL);
    probed(5);
    probed(6);
    while (!handled)
        pause();
    setitimer(ITIMER_REAL, &never, NULL);
    printf("total %ld\nforged %ld\nOK\n", c, forged);
    return 0;
}
