/* A child that the kernel gives to no tracer (CLONE_UNTRACED) calls what is probed.
 *   untraced fork|memory|thread: with a copy of the memory, with the memory, in the process */
#include "hazard.h"
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

static char stack[1 << 16] __attribute__((aligned(16)));
static pid_t tid = 1;

static int child(void *unused)
{
    (void)unused;
    for (int i = 0; i < 3; i++)
        probed();
    return 7;
}

int main(int count, char **arguments)
{
    int status, flags = CLONE_UNTRACED;
    CHECK(count == 2);
    int is_thread = !strcmp(arguments[1], "thread");
    if (is_thread)
        flags |= CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID;
    else
        flags |= SIGCHLD | (strcmp(arguments[1], "fork") ? CLONE_VM : 0);
    gate("ready");
    probed();
    pid_t pid = clone(child, stack + sizeof stack, flags, 0, 0, 0, &tid);
    CHECK(pid > 0);
    if (is_thread)
        while (__atomic_load_n(&tid, __ATOMIC_ACQUIRE))
            sched_yield();
    else
        CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    gate("stopped");
    return finish();
}
