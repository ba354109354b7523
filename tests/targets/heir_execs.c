/* A child that shares our memory keeps it, and writes to it, when we have executed a program. */
#include "hazard.h"
#include <sched.h>
#include <sys/wait.h>

volatile long kept;
static int ends[2];

static int heir(void *unused)
{
    char byte;
    (void)unused;
    if (read(ends[0], &byte, 1) != 1)
        _exit(3);
    for (int i = 0; i < 10; i++)
        kept++;
    _exit(kept == 11 ? 42 : 4);
}

int main(int argc, char **argv)
{
    static char stack[65536] __attribute__((aligned(16)));
    char end[24], pid[24];
    char *arguments[] = {argv[0], end, pid, 0};
    if (argc > 2) {
        int status;
        pid_t child = atoi(argv[2]);
        CHECK(write(atoi(argv[1]), "x", 1) == 1);
        CHECK(waitpid(child, &status, __WALL) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
        gate("stopped");
        return finish();
    }
    gate("ready");
    kept++;
    CHECK(pipe(ends) == 0);
    snprintf(end, sizeof end, "%d", ends[1]);
    snprintf(pid, sizeof pid, "%d", clone(heir, stack + sizeof stack, CLONE_VM | SIGCHLD, 0));
    gate("heir");
    execv("/proc/self/exe", arguments);
    CHECK(0);
}
