/* fork, also by a probed system call instruction: the child must be clean of breakpoints. */
#include "hazard.h"
#include <pthread.h>
#include <sys/wait.h>

long raw_fork(void);
__asm__(".pushsection .text\n.globl raw_fork,raw_fork_syscall\n.type raw_fork,@function\n"
        ".type raw_fork_syscall,@function\n"
        "raw_fork: mov $57,%eax\nraw_fork_syscall: syscall\n\tret\n"
        ".size raw_fork,.-raw_fork\n.popsection");

static volatile int stop;

static void *busy(void *unused)
{
    while (!stop)
        probed();
    return unused;
}

static void child(long parent_calls)
{
    long before = calls;
    CHECK(before >= parent_calls);
    for (int i = 0; i < 100; i++)
        probed();
    CHECK(calls == before + 100);
    CHECK(*(volatile unsigned char *)probed == 0xf0);           /* lock */
    CHECK(((volatile unsigned char *)raw_fork)[5] == 0x0f);     /* syscall */
    _exit(42);
}

static void await_child(long pid)
{
    int status;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
}

int main(void)
{
    pthread_t thread;
    gate("ready");
    CHECK(pthread_create(&thread, 0, busy, 0) == 0);
    for (int i = 0; i < 20; i++) {
        long before = calls, pid = i % 2 ? raw_fork() : fork();
        if (pid == 0)
            child(before);
        probed();
        await_child(pid);
    }
    stop = 1;
    CHECK(pthread_join(thread, 0) == 0);
    gate("stopped");
    return finish();
}
