/* Timer signals at a high rate: each handler must see a place of ours, and can call probed(). */
#include "hazard.h"
#include <signal.h>
#include <sys/time.h>
#include <ucontext.h>

extern char __executable_start, etext;
static volatile long handled, inside, nested;
static char *libc_low, *libc_high;

static void handler(int signo, siginfo_t *info, void *context)
{
    char *rip = (char *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    CHECK(signo == SIGALRM && info->si_code == SI_KERNEL);
    CHECK((rip >= &__executable_start && rip < &etext) || (rip >= libc_low && rip < libc_high));
    inside += rip >= (char *)probed && rip < (char *)probed + 16;
    if (++handled % 4 == 0) {
        probed();
        nested++;
    }
}

/* From the first to the last mapping of libc and the vDSO: slots are nowhere near. */
static void find_libc(void)
{
    char line[512], *low, *high;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps))
        if (strstr(line, "libc.so") && sscanf(line, "%p-%p", (void **)&low, (void **)&high) == 2) {
            libc_low = libc_low ? libc_low : low;
            libc_high = high;
        }
    fclose(maps);
    CHECK(libc_low);
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct itimerval timer = {{0, 700}, {0, 700}}, off = {0};
    long loops = 0;
    find_libc();
    CHECK(sigaction(SIGALRM, &action, 0) == 0);
    gate("ready");
    CHECK(setitimer(ITIMER_REAL, &timer, 0) == 0);
    for (; handled < 600; loops++)
        probed();
    CHECK(setitimer(ITIMER_REAL, &off, 0) == 0);
    CHECK(calls == loops + nested);
    gate("stopped");
    say("inside %ld\n", inside);
    return finish();
}
