/* Real-time signals: every one arrives, in order, with its value and sender. */
#include "hazard.h"
#include <signal.h>
#include <sys/wait.h>

enum { COUNT = 400 };
static volatile sig_atomic_t next;
static volatile pid_t sender;

static void handler(int signo, siginfo_t *info, void *context)
{
    (void)context;
    CHECK(signo == SIGRTMIN && info->si_code == SI_QUEUE);
    CHECK(info->si_value.sival_int == next && info->si_pid == sender);
    next++;
    probed();
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
    pid_t target = getpid();
    int pipes[2], status;
    CHECK(sigaction(SIGRTMIN, &action, 0) == 0 && pipe(pipes) == 0);
    gate("ready");
    sender = fork();
    if (sender == 0) {
        char byte;
        CHECK(read(pipes[0], &byte, 1) == 1);
        for (int i = 0; i < COUNT; i++)
            while (sigqueue(target, SIGRTMIN, (union sigval){i}) < 0)
                CHECK(errno == EAGAIN);
        _exit(0);
    }
    CHECK(sender > 0 && write(pipes[1], "x", 1) == 1);
    while (next < COUNT)
        probed();
    CHECK(waitpid(sender, &status, 0) == sender && status == 0);
    gate("stopped");
    return finish();
}
