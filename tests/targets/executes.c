/* Four threads, the last of which executes PROGRAM at SIGUSR1.   executes PROGRAM|… again */
#include "hazard.h"
#include <pthread.h>
#include <signal.h>

static sigset_t wanted;
static const char *program;

static void *idle(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void *execute(void *unused)
{
    char *const again[] = {(char *)program, "again", 0};
    int number;
    CHECK(sigwait(&wanted, &number) == 0);
    execv(program, again);
    CHECK(0);
    return unused;
}

int main(int count, char **arguments)
{
    pthread_t thread;
    CHECK(count > 1);
    if (!strcmp(arguments[count - 1], "again")) {
        gate("executed");
        probed();
        gate("stopped");
        return finish();
    }
    program = arguments[1];
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &wanted, 0) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&thread, 0, i < 2 ? idle : execute, 0) == 0);
    gate("ready");
    return 1;
}
