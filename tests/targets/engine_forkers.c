/* Makes children in the less usual ways, by name; each call of probed() by any of them is counted.
 *
 * vforks: several threads vfork and execute at once; shares: CLONE_VM with CLONE_VFORK, from several
 * threads, on stacks of their own; siblings: CLONE_PARENT; pidfds: CLONE_PIDFD; handler: a signal
 * handler that interrupts what is probed forks, and both return from it; leaderless: after the
 * leading thread has ended; outlives: the same, with a child that waits; daemons: fork, setsid, fork; traces: a child that has itself traced.
 * All system calls that make a process go through make_syscall, which can be probed. */
#include "hazard.h"
#include <linux/sched.h>
#include <pthread.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#define THREADS 4
#define ROUNDS 12

extern char **environ;
static long *total; /* shared by all of them */
static char *own_program[] = {"forkers", "child", 0, 0};

/* With ``jumps``, the child calls what lies on its stack: a function and its argument. */
long make(long number, long a, long b, long c, long d, long jumps);
__asm__(".pushsection .text\n.globl make,make_syscall\n"
        ".type make,@function\n.type make_syscall,@function\n"
        "make: mov %rdi,%rax\n\tmov %rsi,%rdi\n\tmov %rdx,%rsi\n\tmov %rcx,%rdx\n"
        "\tmov %r8,%r10\n"
        "make_syscall: syscall\n\ttest %rax,%rax\n\tjnz 1f\n\ttest %r9,%r9\n\tjz 1f\n"
        "\tpop %rax\n\tpop %rdi\n\tcall *%rax\n"
        "1: ret\n.size make,.-make\n.popsection");

static long fork_here(void)
{
    return make(SYS_fork, 0, 0, 0, 0, 0);
}

static void call(int times)
{
    for (int i = 0; i < times; i++)
        probed();
    __atomic_add_fetch(total, times, __ATOMIC_SEQ_CST);
}

static void collect(pid_t pid, int expected)
{
    int status;
    CHECK(pid > 0);
    CHECK(waitpid(pid, &status, __WALL) == pid);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == expected);
}

static void *vforks(void *unused)
{
    for (int i = 0; i < ROUNDS; i++) {
        pid_t pid = vfork();
        if (pid == 0) {
            probed();
            execve("/proc/self/exe", own_program, environ);
            _exit(8);
        }
        __atomic_add_fetch(total, 1, __ATOMIC_SEQ_CST);
        collect(pid, 42);
        call(1);
    }
    return unused;
}

static void in_shared(void *unused)
{
    (void)unused;
    call(2);
    make(SYS_exit, 42, 0, 0, 0, 0);
}

static void *shares(void *unused)
{
    for (int i = 0; i < ROUNDS; i++) {
        char *stack = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(stack != MAP_FAILED);
        void **top = (void **)(stack + 65536 - 64);
        top[0] = (void *)in_shared;
        top[1] = 0;
        long flags = CLONE_VM | (i % 2 ? CLONE_VFORK : 0) | SIGCHLD, pid;
        pid = make(SYS_clone, flags, (long)top, 0, 0, 1);
        collect(pid, 42);
        call(1);
        munmap(stack, 65536);
    }
    return unused;
}

static void in_threads(void *(*function)(void *))
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], 0, function, 0) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], 0) == 0);
}

static long clone3(long flags, int *pidfd, int signal)
{
    struct clone_args arguments = {
        .flags = flags, .pidfd = (long)pidfd, .exit_signal = signal};
    return make(SYS_clone3, (long)&arguments, sizeof arguments, 0, 0, 0);
}

/* The middle process makes children of the first one. */
static void siblings(void)
{
    for (int i = 0; i < ROUNDS; i++) {
        pid_t middle = fork_here();
        if (middle == 0) {
            for (int k = 0; k < 3; k++) {
                long pid = clone3(CLONE_PARENT, 0, 0);
                CHECK(pid >= 0);
                if (pid == 0) {
                    CHECK(getppid() != 1);
                    call(2);
                    _exit(42);
                }
            }
            call(1);
            _exit(42);
        }
        for (int k = 0; k < 4; k++) {
            int status;
            CHECK(wait(&status) > 0 && status == 42 << 8);
        }
    }
}

static void pidfds(void)
{
    for (int i = 0; i < ROUNDS; i++) {
        int pidfd = -1;
        long pid = clone3(CLONE_PIDFD | CLONE_CLEAR_SIGHAND, &pidfd, i % 2 ? SIGCHLD : 0);
        if (pid == 0) {
            call(2);
            _exit(42);
        }
        CHECK(pid > 0 && pidfd >= 0);
        struct pollfd ends = {pidfd, POLLIN, 0};
        int got;
        do
            got = poll(&ends, 1, -1);
        while (got < 0 && errno == EINTR);
        CHECK(got == 1);
        siginfo_t info;
        CHECK(waitid(P_PIDFD, pidfd, &info, WEXITED | __WALL) == 0);
        CHECK(info.si_pid == pid && info.si_status == 42);
        close(pidfd);
        call(1);
    }
}

static volatile int made, is_child, rang;

static void on_alarm(int signo)
{
    (void)signo;
    int before = errno;
    pid_t pid = fork_here();
    CHECK(pid >= 0);
    if (pid == 0)
        is_child = 1;
    else {
        collect(pid, 42);
        made++;
    }
    rang = 1;
    errno = before;
}

static void handler(void)
{
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    /* Set again when it rang: where a fork takes longer than that, nothing else would be done. */
    struct itimerval soon = {{0, 0}, {0, 3000}};
    long mine = 0;
    int ends[2];
    CHECK(pipe(ends) == 0);
    CHECK(sigaction(SIGALRM, &action, 0) == 0);
    rang = 1;
    while (made < 3 * ROUNDS) {
        if (rang) {
            rang = 0;
            CHECK(setitimer(ITIMER_REAL, &soon, 0) == 0);
        }
        long before = calls;
        probed();
        CHECK(calls == before + 1);
        CHECK(make(SYS_getppid, 0, 0, 0, 0, 0) > 0);
        mine++;
        if (is_child) {
            call(3);
            _exit(42);
        }
    }
    __atomic_add_fetch(total, mine, __ATOMIC_SEQ_CST);
}

static pthread_t leader;

static void finish_all(void)
{
    say("total %ld\n", *total);
    gate("stopped");
    exit(finish());
}

static void *outlives(void *unused)
{
    CHECK(pthread_join(leader, 0) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        gate("child");
        call(2);
        _exit(42);
    }
    collect(pid, 42);
    finish_all();
    return unused;
}

static void *leaderless(void *unused)
{
    CHECK(pthread_join(leader, 0) == 0);
    for (int i = 0; i < ROUNDS; i++) {
        pid_t pid = i % 2 ? fork() : fork_here();
        if (pid == 0) {
            call(2);
            _exit(42);
        }
        collect(pid, 42);
        call(1);
        pid = vfork();
        if (pid == 0) {
            probed();
            execve("/proc/self/exe", own_program, environ);
            _exit(8);
        }
        ++*total;
        collect(pid, 42);
    }
    finish_all();
    return unused;
}

static void daemons(void)
{
    int ends[2];
    char byte;
    CHECK(pipe(ends) == 0);
    for (int i = 0; i < ROUNDS; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            call(1);
            CHECK(setsid() == getpid());
            pid = fork();
            CHECK(pid >= 0);
            if (pid)
                _exit(42);
            call(3);
            CHECK(write(ends[1], "x", 1) == 1);
            _exit(0);
        }
        collect(pid, 42);
    }
    for (int i = 0; i < ROUNDS; i++)
        CHECK(read(ends[0], &byte, 1) == 1);
}

static void traces(void)
{
    for (int i = 0; i < ROUNDS; i++) {
        int status;
        pid_t pid = fork();
        if (pid == 0) {
            call(1);
            if (ptrace(PTRACE_TRACEME, 0, 0, 0) != 0)
                _exit(41);
            raise(SIGSTOP);
            call(1);
            execve("/proc/self/exe", own_program, environ);
            _exit(8);
        }
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
        CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
        CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
        collect(pid, 42);
        call(1);
    }
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    if (!strcmp(mode, "child")) {
        for (int i = 0; i < 5; i++)
            probed();
        return 42;
    }
    total = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(total != MAP_FAILED);
    leader = pthread_self();
    gate("ready");
    if (!strcmp(mode, "vforks"))
        in_threads(vforks);
    else if (!strcmp(mode, "shares"))
        in_threads(shares);
    else if (!strcmp(mode, "siblings"))
        siblings();
    else if (!strcmp(mode, "pidfds"))
        pidfds();
    else if (!strcmp(mode, "handler"))
        handler();
    else if (!strcmp(mode, "daemons"))
        daemons();
    else if (!strcmp(mode, "traces"))
        traces();
    else {
        pthread_t thread;
        CHECK(pthread_create(&thread, 0, *mode == 'o' ? outlives : leaderless, 0) == 0);
        pthread_exit(0);
    }
    finish_all();
}
