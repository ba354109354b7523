/* Closes itself to others, by not being dumpable and by a filter of system calls, and forks.
 *
 * "executes": the child executes this program again, which calls probed() once more. */
#include "hazard.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static void close_to_others(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static volatile sig_atomic_t signals;

static void handler(int signo)
{
    (void)signo;
    signals++;
    probed();
}

static void work(char **argv)
{
    int status;
    CHECK(signal(SIGUSR1, handler) != SIG_ERR);
    for (int i = 0; i < 10; i++) {
        probed();
        CHECK(raise(SIGUSR1) == 0);
    }
    CHECK(calls == 22 && signals == 10);
    pid_t pid = fork();
    if (pid == 0) {
        probed();
        gate("grandchild");
        probed();
        _exit(7);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 7 << 8);
    probed();
    if (!strcmp(argv[1], "executes")) {
        argv[1] = "again";
        execv("/proc/self/exe", argv);
        _exit(8);
    }
    _exit(3);
}

int main(int argc, char **argv)
{
    int status;
    CHECK(argc == 2);
    if (!strcmp(argv[1], "again")) {
        probed();
        return 3;
    }
    gate("ready");
    probed();
    close_to_others();
    probed();
    pid_t pid = fork();
    if (pid == 0)
        work(argv);
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK(status == 3 << 8);
    gate("stopped");
    return finish();
}
