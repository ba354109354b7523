/* Forks a process that forks another and ends; that one calls probed() until its input is at its end. */
#include "hazard.h"
#include <poll.h>
#include <sys/wait.h>

int main(void)
{
    int up[2];
    pid_t child, stray;
    struct pollfd input = {0, 0, 0};

    CHECK(pipe(up) == 0);
    gate("ready");
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        child = fork();
        if (child)
            _exit(child < 0);
        stray = getpid();
        if (write(up[1], &stray, sizeof stray) != sizeof stray)
            _exit(1);
        /* What is in there is its parent's. */
        while (poll(&input, 1, 0) >= 0 && !(input.revents & POLLHUP))
            probed();
        _exit(0);
    }
    CHECK(waitpid(child, NULL, 0) == child);
    CHECK(read(up[0], &stray, sizeof stray) == sizeof stray);
    say("stray %d\n", stray);
    gate("forked");
    return finish();
}
