/* Another process shares our memory, that is neither our parent nor our child:
 *
 * sibling: our parent's child (CLONE_PARENT); orphan: one whose parent has ended; headless: a
 * sibling whose first thread has ended.   sharers HOW before|later
 * It calls what is probed until it is told to end. */
#include "hazard.h"
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { SHARES = CLONE_VM | CLONE_FS | CLONE_FILES };

static const char *how;
static char stacks[3][65536] __attribute__((aligned(16)));
static volatile int stop, ended, pid;
static volatile long its_calls;

static int share(void *unused)
{
    (void)unused;
    do {
        for (int i = 0; i < 50; i++, its_calls++)
            probed();
        sched_yield();
    } while (!stop);
    ended = 1;
    syscall(SYS_exit, 0);
    return 0;
}

static int lead(void *unused)
{
    (void)unused;
    if (clone(share, stacks[1] + sizeof stacks[1], SHARES | CLONE_SIGHAND | CLONE_THREAD, 0) < 0)
        _exit(1);
    syscall(SYS_exit, 0);
    return 0;
}

static int leave(void *unused)
{
    (void)unused;
    pid = clone(share, stacks[1] + sizeof stacks[1], SHARES | SIGCHLD, 0);
    _exit(0);
}

static void begin(void)
{
    void *stack = stacks[0] + sizeof stacks[0];
    if (!strcmp(how, "orphan")) {
        int helper = clone(leave, stack, SHARES | SIGCHLD, 0), status;
        CHECK(helper > 0 && waitpid(helper, &status, 0) == helper);
    } else {
        int (*first)(void *) = strcmp(how, "headless") ? share : lead;
        pid = clone(first, stack, SHARES | CLONE_PARENT | SIGCHLD, 0);
    }
    CHECK(pid > 0);
    while (!its_calls)
        sched_yield();
    say("pid %d\n", pid);
}

int main(int count, char **arguments)
{
    CHECK(count == 3);
    how = arguments[1];
    if (!strcmp(arguments[2], "before"))
        begin();
    gate("ready");
    if (!strcmp(arguments[2], "later"))
        begin();
    for (int i = 0; i < 50; i++)
        probed();
    gate("shared");
    stop = 1;
    while (!ended)
        sched_yield();
    CHECK(calls == its_calls + 50);
    gate("stopped");
    return finish();
}
