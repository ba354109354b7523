/* Counts in a thread; says so when it was continued. */
#include "hazard.h"
#include <pthread.h>
#include <signal.h>

static volatile int stop;
static volatile long continued;

static void *busy(void *unused)
{
    while (!stop)
        probed();
    return unused;
}

static void on_continue(int signo)
{
    (void)signo;
    continued++;
    CHECK(write(1, "continued\n", 10) == 10);
}

int main(void)
{
    pthread_t threads[4];
    struct sigaction action = {.sa_handler = on_continue, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGCONT, &action, 0) == 0);
    gate("ready");
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], 0, busy, 0) == 0);
    gate("running");
    stop = 1;
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(threads[i], 0) == 0);
    gate("stopped");
    say("times %ld\n", continued);
    return finish();
}
