/* What probe programs look at and alter: every register at one instruction, memory of every kind,
 * a call with a result, an instruction that faults. One letter on stdin says what to do next. */
#include "hazard.h"
#include <asm/prctl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>

#define PAGE 4096L

/* Loaded into the registers before `mirror_at`, and stored after it. rax rbx rcx rdx rsi rdi rbp
 * rsp r8..r15 rflags; rsp is not loaded. */
uint64_t in[17], out[17], kept_rsp;
_Alignas(16) unsigned char fx_in[512], fx_out[512], fx_kept[512];

void mirror(void);
extern char mirror_at[], faulty[], faulty_end[];
long hook(void);
void faults(void *address);
void other(void);

#define REGISTERS(op)                                                                      \
    op(0, rax) op(8, rbx) op(16, rcx) op(24, rdx) op(32, rsi) op(40, rdi) op(48, rbp)      \
    op(64, r8) op(72, r9) op(80, r10) op(88, r11) op(96, r12) op(104, r13) op(112, r14)    \
    op(120, r15)
#define LOAD(at, name) " mov in+" #at "(%rip),%" #name "\n"
#define STORE(at, name) " mov %" #name ",out+" #at "(%rip)\n"
#define FUNCTION(name) ".globl " #name "\n.type " #name ",@function\n"

__asm__(".pushsection .text\n" FUNCTION(mirror) FUNCTION(mirror_at) FUNCTION(hook)
        FUNCTION(faults) FUNCTION(faulty) FUNCTION(faulty_end) FUNCTION(other)
        "mirror: push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n pushfq\n"
        " fxsave fx_kept(%rip)\n mov %rsp,kept_rsp(%rip)\n"
        " fxrstor fx_in(%rip)\n pushq in+128(%rip)\n popfq\n" REGISTERS(LOAD)
        "mirror_at: nop\n" STORE(56, rsp)
        " mov kept_rsp(%rip),%rsp\n" REGISTERS(STORE)
        " pushfq\n popq out+128(%rip)\n fxsave fx_out(%rip)\n fxrstor fx_kept(%rip)\n"
        " popfq\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n"
        ".size mirror,.-mirror\n.size mirror_at,.-mirror_at\n"
        "hook: mov $1,%eax\n ret\n.size hook,.-hook\n"
        "other: nop\n ret\n.size other,.-other\n"
        "faults: nop\nfaulty: mov (%rdi),%rax\nfaulty_end: ret\n.size faults,.-faults\n"
        ".size faulty,3\n.size faulty_end,1\n.popsection");

static const char *const names[17] = {
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8",
    "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rflags",
};

static uint64_t word(const unsigned char *from, int size)
{
    uint64_t value = 0;
    memcpy(&value, from, size);
    return value;
}

static void tell_registers(void)
{
    uint64_t fs = 0, gs = 0;
    for (int n = 0; n < 17; n++)
        say("%s %lu\n", names[n], out[n]);
    say("kept_rsp %lu\nrip %lu\n", kept_rsp, (uint64_t)mirror_at);
    say("fcw %lu\nfsw %lu\n", word(fx_out, 2), word(fx_out + 2, 2));
    say("ftw %lu\nmxcsr %lu\n", word(fx_out + 4, 1), word(fx_out + 24, 4));
    for (int n = 0; n < 8; n++)
        say("fr%d %lu\nfr%d.high %lu\n", n, word(fx_out + 32 + 16 * n, 8), n,
            word(fx_out + 40 + 16 * n, 2));
    for (int n = 0; n < 16; n++)
        say("xmm%d %lu\nxmm%d.high %lu\n", n, word(fx_out + 160 + 16 * n, 8), n,
            word(fx_out + 168 + 16 * n, 8));
    CHECK(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs) == 0);
    CHECK(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs) == 0);
    say("fs_base %lu\ngs_base %lu\n", fs, gs);
    unsigned short cs, ss, ds, es, fs_, gs_;
    __asm__("mov %%cs,%0\n mov %%ss,%1\n mov %%ds,%2\n mov %%es,%3\n mov %%fs,%4\n mov %%gs,%5"
            : "=r"(cs), "=r"(ss), "=r"(ds), "=r"(es), "=r"(fs_), "=r"(gs_));
    say("cs %u\nss %u\nds %u\nes %u\nfs %u\ngs %u\n", cs, ss, ds, es, fs_, gs_);
}

static void fill_registers(void)
{
    for (int n = 0; n < 16; n++)
        in[n] = 0x1111111111111111u * (n + 1) + 0x80000000u;
    in[16] = 0x246;
    __asm__("fxsave %0" : "=m"(fx_in));
    fx_in[0] = 0x7f, fx_in[1] = 0x02;  /* fcw: double precision */
    fx_in[2] = 0x00, fx_in[3] = 0x39;  /* fsw: top 7, C0 */
    fx_in[4] = 0xa5;                   /* which are in use */
    fx_in[24] = 0xa1, fx_in[25] = 0x1f; /* mxcsr: two exceptions seen, all masked */
    for (int n = 32; n < 160; n++)
        fx_in[n] = n % 16 < 8 ? n | 0x80 : n % 16 == 8 ? n : n % 16 == 9 ? 0x40 : 0;
    for (int n = 160; n < 416; n++)
        fx_in[n] = n;
    CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, 0x12340000) == 0);
}

/* Two pages that can be written, then none; one that can only be read, then none. */
static char *make_pages(void)
{
    char *pages = mmap(0, 6 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    CHECK(mprotect(pages, 2 * PAGE, PROT_READ | PROT_WRITE) == 0);
    CHECK(mprotect(pages + 3 * PAGE, PAGE, PROT_READ | PROT_WRITE) == 0);
    for (int n = 0; n < 2 * PAGE; n++)
        pages[n] = 'a' + n % 26;
    memset(pages + 3 * PAGE, 'r', PAGE);
    CHECK(mprotect(pages + 3 * PAGE, PAGE, PROT_READ) == 0);
    return pages;
}

static unsigned long sum(const char *from, long size)
{
    unsigned long total = 0;
    for (long n = 0; n < size; n++)
        total = total * 31 + (unsigned char)from[n];
    return total;
}

static void after_fault(int signal, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    CHECK(signal == SIGSEGV && registers[REG_RIP] == (greg_t)faulty);
    say("fault %lu\n", (unsigned long)info->si_addr);
    registers[REG_RIP] = (greg_t)faulty_end;
}

static void *call_hook(void *unused)
{
    prctl(PR_SET_NAME, "worker of long name");
    say("tid %ld\nhook %ld\n", syscall(SYS_gettid), hook());
    say("thread done\n");
    return unused;
}

int main(void)
{
    pthread_t thread = 0;
    char *pages = make_pages();
    struct sigaction action = {.sa_sigaction = after_fault, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGSEGV, &action, 0) == 0);
    /* Only root can; that real and effective user then differ is what is looked at. */
    if (geteuid() == 0)
        CHECK(setresgid(1002, 0, 0) == 0 && setresuid(1001, 0, 0) == 0);
    fill_registers();
    say("pages %ld\n", (long)pages);
    char command = 0;
    for (say("ready\n"); read(0, &command, 1) == 1 && command != '\n'; say("done\n")) {
        if (command == 'm') {
            mirror();
            tell_registers();
        } else if (command == 'h') {
            say("hook %ld\n", hook());
        } else if (command == 'n') {
            for (int n = 0; n < 10; n++)
                hook();
        } else if (command == 'o') {
            other();
        } else if (command == 'f') {
            faults((void *)0x5000);
        } else if (command == 's') {
            say("writable %lu\nreadable %lu\n", sum(pages, 2 * PAGE), sum(pages + 3 * PAGE, PAGE));
        } else if (command == 't') {
            CHECK(pthread_create(&thread, 0, call_hook, 0) == 0);
        }
    }
    if (thread)
        CHECK(pthread_join(thread, 0) == 0);
    return finish();
}
