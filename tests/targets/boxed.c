/* Puts itself into a box, by name: strict, filter, nnp, undumpable, vfork; then works there. */
#include "hazard.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define DENY(number)                                                                       \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),                                     \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

static void filter(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        DENY(SYS_mmap),
        DENY(SYS_munmap),
        DENY(SYS_mprotect),
        DENY(SYS_rt_sigaction),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

/* The parent sleeps uninterruptibly in vfork while its child works and waits. */
static void in_vfork(void)
{
    int status;
    pid_t child = vfork();
    if (child == 0) {
        for (int i = 0; i < 100; i++)
            probed();
        gate("inside");
        for (int i = 0; i < 100; i++)
            probed();
        _exit(42);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 42);
}

int main(int count, char **arguments)
{
    const char *box = count > 1 ? arguments[1] : "";
    int is_strict = !strcmp(box, "strict");
    if (!strcmp(box, "filter"))
        filter();
    if (!strcmp(box, "nnp"))
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    if (!strcmp(box, "undumpable"))
        CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
    if (is_strict)
        CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
    gate("ready");
    if (!strcmp(box, "vfork"))
        in_vfork();
    for (int i = 0; i < 100; i++)
        probed();
    gate("stopped");
    finish();
    syscall(SYS_exit, 0); /* strict mode knows no exit_group */
    return 1;
}
