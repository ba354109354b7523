/* Children that share our memory, text and counter: vfork, clone(CLONE_VM), posix_spawn. */
#include "hazard.h"
#include <sched.h>
#include <spawn.h>
#include <sys/wait.h>

static char *const empty[] = {0};

static int shares(void *unused)
{
    (void)unused;
    for (int i = 0; i < 50; i++)
        probed();
    return 42;
}

static void await_child(long pid, int expected)
{
    int status;
    CHECK(pid > 0 && waitpid(pid, &status, __WALL) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == expected);
}

int main(void)
{
    static char stack[65536] __attribute__((aligned(16)));
    char *arguments[] = {"true", 0};
    volatile pid_t pid;
    pid_t spawned;
    gate("ready");
    for (int i = 0; i < 10; i++) {
        if ((pid = vfork()) == 0) {
            probed();
            _exit(7);
        }
        await_child(pid, 7);
        probed();
        if ((pid = vfork()) == 0) {
            probed();
            execve("/bin/true", arguments, empty);
            _exit(8);
        }
        await_child(pid, 0);
        probed();
        pid = clone(shares, stack + sizeof stack, CLONE_VM | SIGCHLD, 0);
        for (int k = 0; k < 50; k++)
            probed();
        await_child(pid, 42);
        probed();
        CHECK(posix_spawn(&spawned, "/bin/true", 0, 0, arguments, empty) == 0);
        await_child(spawned, 0);
        probed();
    }
    CHECK(calls == 10 * 106);
    gate("stopped");
    return finish();
}
