/* Sleeps with a time limit behind a seccomp filter.   filtered kills|allows|handles
 * kills: for restart_syscall, by which the kernel goes on with an interrupted one.
 * handles: kills for rt_sigreturn, with which a signal handler ends. */
#include "hazard.h"
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

static int kills, handles, never[2], word;

static void *in_nanosleep(void *unused)
{
    struct timespec left = {1, 0};
    CHECK(nanosleep(&left, &left) == 0);
    return unused;
}

static void *in_poll(void *unused)
{
    struct pollfd quiet = {never[0], POLLIN, 0};
    CHECK(poll(&quiet, 1, 1000) == 0);
    return unused;
}

static void *in_futex(void *unused)
{
    struct timespec limit = {1, 0};
    CHECK(syscall(SYS_futex, &word, FUTEX_WAIT, 0, &limit, 0, 0) == -1 && errno == ETIMEDOUT);
    return unused;
}

static void put_filter(void)
{
    unsigned answer = kills || handles ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ALLOW;
    unsigned number = handles ? SYS_rt_sigreturn : SYS_restart_syscall;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, answer),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

int main(int count, char **arguments)
{
    void *(*const calls[])(void *) = {in_nanosleep, in_poll, in_futex};
    pthread_t threads[3];
    CHECK(count == 2 && pipe(never) == 0);
    kills = !strcmp(arguments[1], "kills");
    handles = !strcmp(arguments[1], "handles");
    put_filter();
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], 0, calls[i], 0) == 0);
    gate("ready");
    for (int i = 0; i < 3; i++)
        CHECK(pthread_join(threads[i], 0) == 0);
    probed();
    gate("stopped");
    return finish();
}
