/* Its system calls, or its steps, end in a signal handler that looks where they were made.
 *
 * "filtered": a seccomp filter traps one. "dispatched": all are dispatched to a handler while the
 * selector says so. "allowed": all but those of a page, where the probed one is. "closed": so from
 * the beginning, and while it waits. "steps": it steps itself through a function. */
#include "hazard.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif

long ask(long number, long first, void *second, long third);
extern char page[], behind_ask[];
__asm__(".pushsection .text\n.balign 4096\n.globl page,ask,ask_call,behind_ask\n"
        ".type ask,@function\n.type ask_call,@function\n"
        "page:\nask: mov %rdi,%rax\n\tmov %rsi,%rdi\n\tmov %rdx,%rsi\n\tmov %rcx,%rdx\n"
        "ask_call: syscall\nbehind_ask: ret\n.size ask,.-ask\n.balign 4096\n.popsection");

static long own;
static volatile long trapped;
static volatile char selector;

static void judged(int signo, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    selector = 0;
    trapped++;
    CHECK(signo == SIGSYS && info->si_syscall == SYS_getpgid);
    CHECK((char *)registers[REG_RIP] == behind_ask && info->si_call_addr == behind_ask);
    CHECK(registers[REG_RAX] == SYS_getpgid && (char *)registers[REG_RCX] == behind_ask);
    registers[REG_RAX] = 77;
}

static void filter(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpgid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static int dispatch(const char *allowed)
{
    return prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, allowed, 4096L, &selector);
}

/* A gate at which the selector is closed; only the page may make system calls. */
static void closed_gate(const char *name)
{
    char byte;
    say("%s\n", name);
    selector = 1;
    CHECK(ask(SYS_read, 0, &byte, 1) == 1);
    selector = 0;
}

static void call(const char *how)
{
    long before = trapped;
    for (int i = 0; i < 10; i++) {
        selector = !strcmp(how, "dispatched") || !strcmp(how, "allowed");
        long got = ask(SYS_getpgid, 0, 0, 0);
        selector = 0;
        CHECK(got == (trapped ? 77 : own));
    }
    CHECK(trapped - before == (!strcmp(how, "filtered") || !strcmp(how, "dispatched") ? 10 : 0));
}

/* The trap flag is set from behind the first popfq to behind the second. */
void stepped(void);
__asm__(".pushsection .text\n"
        ".globl stepped,step_pops,step_nop,step_push,step_call,step_jump,step_rep\n"
        ".type stepped,@function\n.type step_pops,@function\n.type step_nop,@function\n"
        ".type step_push,@function\n.type step_call,@function\n.type step_jump,@function\n"
        ".type step_rep,@function\n"
        "stepped: pushfq\n\torl $0x100,(%rsp)\nstep_pops: popfq\nstep_nop: nop\n"
        "step_push: push %rbx\n\tpop %rbx\nstep_call: call 1f\nstep_jump: jmp 2f\n\tud2\n"
        "2: mov $3,%ecx\n\tlea step_room(%rip),%rdi\nstep_rep: rep stosb\n"
        "\tpushfq\n\tandl $~0x100,(%rsp)\n\tpopfq\n\tret\n1: nop\n\tret\n.size stepped,.-stepped\n"
        ".popsection\n.local step_room\n.comm step_room,8,8");

static char *steps[2][64];
static volatile int run, count[2];

static void step(int signo, siginfo_t *info, void *context)
{
    char *rip = (char *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    CHECK(signo == SIGTRAP && count[run] < 64);
    CHECK(info->si_code == TRAP_TRACE && info->si_addr == rip);
    steps[run][count[run]++] = rip;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_sigaction = judged, .sa_flags = SA_SIGINFO};
    CHECK(argc == 2 && sigaction(SIGSYS, &action, 0) == 0);
    const char *how = argv[1];
    own = getpgid(0);
    if (!strcmp(how, "steps")) {
        action.sa_sigaction = step;
        CHECK(sigaction(SIGTRAP, &action, 0) == 0);
        stepped();
        run = 1;
        gate("ready");
        stepped();
        CHECK(count[0] > 10 && count[1] == count[0] && !memcmp(steps[0], steps[1], sizeof *steps));
        gate("stopped");
        return finish();
    }
    if (!strcmp(how, "closed")) {
        if (dispatch(page) < 0)
            say("without\n");
        closed_gate("ready");
        closed_gate("stopped");
        return finish();
    }
    gate("ready");
    if (!strcmp(how, "filtered"))
        filter();
    else if (dispatch(!strcmp(how, "allowed") ? page : 0) < 0) {
        say("without\n");
        return 0;
    }
    call(how);
    gate("judged");
    call(how);
    if (!strcmp(how, "allowed"))
        closed_gate("stopped");
    else
        gate("stopped");
    call(how);
    return finish();
}
