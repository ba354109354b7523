/* Instructions of each length in the middle of all registers, flags and a red zone; and what else is
 * delicate about a jump in place of an instruction. */
#include "hazard.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>

struct state {
    unsigned long words[16], flags, below[16];
};

/* Loads what is in ``given``, comes by the instruction, stores what is there then to ``taken``. */
static struct state given;
struct state taken;
#define STRING(x) #x
#define THROUGH(name, bytes)                                                                      \
    void through_##name(struct state *in);                                                        \
    __asm__(".pushsection .text\n.globl through_" STRING(name) ",site_" STRING(name) "\n"         \
            ".type site_" STRING(name) ",@function\n"                                             \
            "through_" STRING(name) ":\n"                                                         \
            "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"             \
            "push 128(%rdi)\n popf\n"                                                             \
            "mov 0(%rdi),%rax\n mov 8(%rdi),%rbx\n mov 16(%rdi),%rcx\n mov 24(%rdi),%rdx\n"       \
            "mov 32(%rdi),%rsi\n mov 48(%rdi),%rbp\n mov 64(%rdi),%r8\n mov 72(%rdi),%r9\n"       \
            "mov 80(%rdi),%r10\n mov 88(%rdi),%r11\n mov 96(%rdi),%r12\n mov 104(%rdi),%r13\n"    \
            "mov 112(%rdi),%r14\n mov 120(%rdi),%r15\n mov 40(%rdi),%rdi\n"                       \
            "mov %rax,-8(%rsp)\n mov %rbx,-64(%rsp)\n mov %rcx,-120(%rsp)\n mov %rdx,-128(%rsp)\n"\
            "site_" STRING(name) ": .byte " bytes "\n .size site_" STRING(name) ",.-site_"        \
            STRING(name) "\n"                                                                     \
            "mov %rax,taken+0(%rip)\n mov %rbx,taken+8(%rip)\n mov %rcx,taken+16(%rip)\n"         \
            "mov %rdx,taken+24(%rip)\n mov %rsi,taken+32(%rip)\n mov %rdi,taken+40(%rip)\n"       \
            "mov %rbp,taken+48(%rip)\n mov %r8,taken+64(%rip)\n mov %r9,taken+72(%rip)\n"         \
            "mov %r10,taken+80(%rip)\n mov %r11,taken+88(%rip)\n mov %r12,taken+96(%rip)\n"       \
            "mov %r13,taken+104(%rip)\n mov %r14,taken+112(%rip)\n mov %r15,taken+120(%rip)\n"    \
            "mov -8(%rsp),%rax\n mov %rax,taken+136(%rip)\n mov -64(%rsp),%rax\n"                 \
            "mov %rax,taken+144(%rip)\n mov -120(%rsp),%rax\n mov %rax,taken+152(%rip)\n"         \
            "mov -128(%rsp),%rax\n mov %rax,taken+160(%rip)\n"                                    \
            "pushf\n pop %rax\n mov %rax,taken+128(%rip)\n cld\n"                                 \
            "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n"             \
            ".popsection")

THROUGH(1, "0x90");
THROUGH(2, "0x66, 0x90");
THROUGH(3, "0x0f, 0x1f, 0x00");
THROUGH(4, "0x0f, 0x1f, 0x40, 0x00");
THROUGH(5, "0x0f, 0x1f, 0x44, 0x00, 0x00");
THROUGH(7, "0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00");
THROUGH(9, "0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00");

/* each an instruction of five bytes, one right behind the other; the last is over a page's end */
long row(long value);
__asm__(".pushsection .text\n.globl row,row_next,row_last\n.type row,@function\n"
        ".type row_next,@function\n.type row_last,@function\n"
        ".balign 4096\n.skip 4096 - 12, 0x90\n"
        "row: mov $1,%eax\nrow_next: add $0x100,%eax\nrow_last: add $0x1000,%eax\n"
        "\tadd %rdi,%rax\n\tret\n.size row,.-row\n.popsection");

static void check_one(void (*through)(struct state *), unsigned long flags)
{
    for (int i = 0; i < 16; i++)
        given.words[i] = 0x0101010101010101ul * (i + 1) ^ 0xa5a5000000000000ul;
    given.flags = flags;
    memset(&taken, 0, sizeof taken);
    through(&given);
    for (int i = 0; i < 16; i++)
        CHECK(i == 7 || taken.words[i] == given.words[i]);
    for (int i = 0; i < 4; i++)
        CHECK(taken.below[i] == given.words[i]);
    CHECK((taken.flags & 0xcd5) == (flags & 0xcd5));
}

static void check_all(void)
{
    /* none, all arithmetic ones, overflow alone, and the direction */
    static const unsigned long flags[] = {0x202, 0xad7, 0xa02, 0x602, 0x293};
    static void (*const forms[])(struct state *) = {
        through_1, through_2, through_3, through_4, through_5, through_7, through_9,
    };
    for (unsigned f = 0; f < sizeof flags / sizeof *flags; f++)
        for (unsigned i = 0; i < sizeof forms / sizeof *forms; i++)
            check_one(forms[i], flags[f]);
}

/* --- signals: no handler may find that it has interrupted code that is in no file --- */

enum { SEEN = 1000 };
static volatile unsigned long seen[SEEN];
static volatile int seen_count;

static void on_alarm(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info;
    int n = seen_count;
    if (n < SEEN)
        seen[n] = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP], seen_count = n + 1;
}

static int in_a_file(unsigned long address)
{
    char line[512];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    while (!found && fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        CHECK(sscanf(line, "%lx-%lx", &start, &end) == 2);
        found = start <= address && address < end && (strchr(line, '/') || strchr(line, '['));
    }
    fclose(maps);
    return found;
}

static void signals(void)
{
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_RESTART};
    struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    action.sa_sigaction = on_alarm;
    CHECK(sigaction(SIGPROF, &action, 0) == 0);
    CHECK(setitimer(ITIMER_PROF, &often, 0) == 0);
    while (seen_count < 100)
        for (int i = 0; i < 10000; i++)
            probed();
    CHECK(setitimer(ITIMER_PROF, &never, 0) == 0);
    for (int i = 0; i < seen_count; i++)
        CHECK(in_a_file(seen[i]));
}

/* --- a fault of the probed instruction --- */

long load(long *from);
__asm__(".pushsection .text\n.globl load\n.type load,@function\n"
        "load: mov 0x11223344(%rdi),%rax\n\tret\n.size load,.-load\n.popsection");
static volatile unsigned long fault_at, fault_rip;
static long good = 7;

static void on_fault(int signo, siginfo_t *info, void *context)
{
    ucontext_t *found = context;
    CHECK(signo == SIGSEGV);
    fault_at = (unsigned long)info->si_addr;
    fault_rip = found->uc_mcontext.gregs[REG_RIP];
    found->uc_mcontext.gregs[REG_RDI] = (long)&good - 0x11223344;
}

static void faults(void)
{
    struct sigaction action = {.sa_flags = SA_SIGINFO};
    action.sa_sigaction = on_fault;
    CHECK(sigaction(SIGSEGV, &action, 0) == 0);
    CHECK(load((long *)(8 - 0x11223344l)) == 7);
    CHECK(fault_at == 8 && fault_rip == (unsigned long)load);
}

/* --- processes and threads --- */

static void *work(void *argument)
{
    for (long i = 0; i < (long)argument; i++)
        probed();
    return argument;
}

static void children(void)
{
    for (int i = 0; i < 20; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            for (int n = 0; n < 7; n++)
                probed();
            check_all();
            _exit(calls == 7 ? 42 : 1);
        }
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    }
}

/* a filter that allows everything, given to itself late */
static void filters(void)
{
    struct sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog filter = {1, all};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
    gate("filtered");
    probed();
}

/* --- a stack that is nearly at its end, behind whose guard page something else is --- */

static sigjmp_buf out;
static char *guard;

static void on_overflow(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)context;
    fault_at = (unsigned long)info->si_addr;
    siglongjmp(out, 1);
}

/* comes by probed with so many bytes of stack left */
static void with_stack(char *bottom, unsigned long left)
{
    __asm__ volatile("mov %%rsp,%%rbx\n\tmov %0,%%rsp\n\tcall probed\n\tmov %%rbx,%%rsp"
                     :: "r"(bottom + left)
                     : "rbx", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "cc",
                       "memory");
}

static void deep(void)
{
    enum { PAGE = 4096, OTHERS = 4 * PAGE, STACK = 8 * PAGE };
    static char handlers[64 * 1024];
    stack_t other = {.ss_sp = handlers, .ss_size = sizeof handlers};
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK};
    char *others = mmap(0, OTHERS + PAGE + STACK, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(others != MAP_FAILED);
    guard = others + OTHERS;
    CHECK(mprotect(guard, PAGE, PROT_NONE) == 0);
    CHECK(sigaltstack(&other, 0) == 0);
    action.sa_sigaction = on_overflow;
    CHECK(sigaction(SIGSEGV, &action, 0) == 0);
    memset(others, 0x5a, OTHERS);
    with_stack(guard + PAGE, STACK);
    CHECK(!fault_at && calls == 1);
    if (!sigsetjmp(out, 1)) {
        with_stack(guard + PAGE, 1024);
        CHECK(!"it has enough");
    }
    CHECK(fault_at - (unsigned long)guard < PAGE && calls == 1);
    for (int i = 0; i < OTHERS; i++)
        CHECK(others[i] == 0x5a);
}

static void threads(void)
{
    enum { THREADS = 20 };
    pthread_t made[THREADS];
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&made[i], 0, work, (void *)5000l) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(made[i], 0) == 0);
}

int main(int argc, char **argv)
{
    const char *way = argc > 1 ? argv[1] : "forms";
    gate("ready");
    if (!strcmp(way, "forms"))
        for (int i = 0; i < 10; i++) {
            check_all();
            CHECK(row(i) == 0x1101 + i);
        }
    else if (!strcmp(way, "signals"))
        signals();
    else if (!strcmp(way, "faults"))
        faults();
    else if (!strcmp(way, "children"))
        children();
    else if (!strcmp(way, "deep"))
        deep();
    else if (!strcmp(way, "narrow")) {
        /* nobody can be given a file any more */
        struct rlimit none = {3, 3};
        CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
        gate("narrow");
        children();
    } else if (!strcmp(way, "threads"))
        threads();
    else if (!strcmp(way, "filters"))
        filters();
    gate("stopped");
    return finish();
}
