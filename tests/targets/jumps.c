/* Handlers that leave by siglongjmp, from anywhere; also longjmp out through a probed function. */
#include "hazard.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>

static sigjmp_buf out;
static volatile long jumped;

static void handler(int signo)
{
    (void)signo;
    jumped++;
    siglongjmp(out, 1);
}

__attribute__((noinline)) int thrower(volatile int depth);
int thrower(volatile int depth)
{
    if (depth == 0)
        longjmp(out, 2);
    if (depth < 0)
        return 0;
    return thrower(depth - 1) + 1;
}

int main(void)
{
    struct itimerval timer = {{0, 900}, {0, 900}}, off = {0};
    volatile long thrown = 0;
    signal(SIGALRM, handler);
    gate("ready");
    if (!sigsetjmp(out, 1)) /* whole before the first signal can come */
        CHECK(setitimer(ITIMER_REAL, &timer, 0) == 0);
    while (jumped < 400)
        probed();
    CHECK(setitimer(ITIMER_REAL, &off, 0) == 0);
    while (thrown < 50) {
        if (sigsetjmp(out, 1) == 2) {
            thrown++;
            continue;
        }
        thrower(3);
    }
    /* Once more than it waits for, where a signal comes before the timer is off. */
    say("jumped %ld\n", jumped);
    gate("stopped");
    return finish();
}
