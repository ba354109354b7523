/* The first process of a pid namespace, and what its signals do to it:   inits HOW
 * segv, bus, fpe, ill, trap, sys: a fault that ends it; caught: one that its handler mends; stop: a
 * process of its namespace sends it SIGSTOP; thread: a thread of it faults. */
#include "hazard.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static char *page;

/* What faults, to be probed as well. */
void faults(volatile char *where);
__asm__(".pushsection .text\n.globl faults\n.type faults,@function\n"
        "faults: movb $1,(%rdi)\n\tret\n.size faults,.-faults\n.popsection");

static void mend(int number)
{
    (void)number;
    CHECK(mprotect(page, 4096, PROT_READ | PROT_WRITE) == 0);
}

static void *in_a_thread(void *unused)
{
    faults((char *)8);
    return unused;
}

static void past_the_end(void)
{
    int file = memfd_create("short", 0);
    CHECK(file >= 0);
    faults(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
}

static void trap_getppid(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof code / sizeof *code, code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
    syscall(SYS_getppid);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    const char *how = arguments[1];
    pthread_t thread;
    int status;
    page = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED && getpid() == 1);
    gate("ready");
    for (int i = 0; i < 20; i++)
        probed();
    gate("stopped");
    if (!strcmp(how, "segv"))
        faults(page);
    if (!strcmp(how, "thread")) {
        CHECK(pthread_create(&thread, 0, in_a_thread, 0) == 0);
        pthread_join(thread, 0);
    }
    if (!strcmp(how, "bus"))
        past_the_end();
    if (!strcmp(how, "fpe"))
        __asm__ volatile("xorl %%ecx,%%ecx; divl %%ecx" : : : "eax", "ecx", "edx");
    if (!strcmp(how, "ill"))
        __asm__ volatile("ud2");
    if (!strcmp(how, "trap"))
        __asm__ volatile("int3");
    if (!strcmp(how, "sys"))
        trap_getppid();
    if (!strcmp(how, "caught")) {
        CHECK(signal(SIGSEGV, mend) != SIG_ERR);
        faults(page);
    }
    if (!strcmp(how, "stop")) {
        pid_t child = fork();
        if (child == 0)
            _exit(kill(1, SIGSTOP) == 0 ? 7 : 8);
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    }
    return finish();
}
