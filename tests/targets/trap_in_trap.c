/* The handler of SIGTRAP calls what may be probed: while it runs, SIGTRAP is blocked. */
#include "hazard.h"
#include <signal.h>

enum { COUNT = 20 };
static volatile sig_atomic_t handled;

static void handler(int signo)
{
    sigset_t mask;
    CHECK(signo == SIGTRAP);
    probed();
    CHECK(pthread_sigmask(SIG_SETMASK, 0, &mask) == 0 && sigismember(&mask, SIGTRAP) == 1);
    handled++;
}

int main(void)
{
    struct sigaction action = {.sa_handler = handler}, found;
    sigset_t mask;
    CHECK(sigaction(SIGTRAP, &action, 0) == 0);
    gate("ready");
    for (int i = 0; i < COUNT; i++) {
        probed();
        CHECK(raise(SIGTRAP) == 0 && handled == 2 * i + 1);
        __asm__ volatile("int3");
        CHECK(handled == 2 * i + 2);
        CHECK(pthread_sigmask(SIG_SETMASK, 0, &mask) == 0 && sigismember(&mask, SIGTRAP) == 0);
    }
    CHECK(sigaction(SIGTRAP, 0, &found) == 0 && found.sa_handler == handler);
    gate("stopped");
    return finish();
}
