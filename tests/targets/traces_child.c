/* A parent that looks at its children right after it made them, and traces them, as debuggers do. */
#include "hazard.h"
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static long make(int how)
{
    struct clone_args plain = {.exit_signal = SIGCHLD};
    if (how == 0)
        return fork();
    if (how == 1)
        return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    return syscall(SYS_clone3, &plain, sizeof plain);
}

static int tracer_of(pid_t pid)
{
    char name[64], text[4096], *found;
    snprintf(name, sizeof name, "/proc/%d/status", pid);
    FILE *file = fopen(name, "r");
    CHECK(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    found = strstr(text, "TracerPid:");
    CHECK(found);
    return atoi(found + 10);
}

static void round_of(int how)
{
    int status;
    pid_t child = make(how);
    if (child == 0)
        for (;;)
            pause();
    CHECK(child > 0 && tracer_of(child) == 0);
    CHECK(ptrace(PTRACE_SEIZE, child, 0, 0) == 0);
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
    child = make(how);
    if (child == 0)
        _exit(ptrace(PTRACE_TRACEME, 0, 0, 0) ? 1 : 7);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    child = make(how);
    if (child == 0)
        for (;;)
            pause();
    CHECK(ptrace(PTRACE_ATTACH, child, 0, 0) == 0);
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
    probed();
}

static void *rounds(void *unused)
{
    for (int i = 0; i < 60; i++)
        round_of(i % 3);
    return unused;
}

int main(void)
{
    pthread_t other;
    gate("ready");
    CHECK(pthread_create(&other, 0, rounds, 0) == 0);
    rounds(0);
    CHECK(pthread_join(other, 0) == 0);
    gate("stopped");
    return finish();
}
