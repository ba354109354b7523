/* Runs one instruction twice, in its place and from its slot, and reports both final states.
 *
 * stdin: cases (struct in); stdout: for each, two struct out (in place, from the slot). State is
 * set and taken in signal handlers, so every register, the flags and the whole XSAVE image are
 * exact. Around the instruction there is nothing but int3: wherever it goes, that ends the run. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

enum { GPRS = 17, DATA = 0x20000000, STACK = 0x28000000, SIZE = 0x4000 };
enum { MAGIC = 0x46505853 }; /* FP_XSTATE_MAGIC1, asm/sigcontext.h */
struct in {
    uint64_t address, slot, pad, length, slot_length;
    uint8_t code[16], slot_code[64];
    uint64_t regs[GPRS]; /* r8-r15 rdi rsi rbp rbx rdx rax rcx rsp flags: greg order */
};
struct out {
    uint64_t signal, fault, regs[GPRS], rip, xstate_equal, changed, first, last;
};

static struct in in;
static struct out out;
static sigjmp_buf done;
static uint8_t *data, *stack, memory[2][2 * SIZE], xstate[2][16384];
static size_t xstate_size;
static uint64_t start;
static int turn;

static void enter(int signo, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    uint8_t *x = (void *)u->uc_mcontext.fpregs;
    (void)signo, (void)info;
    for (int i = 0; i < GPRS - 1; i++)
        u->uc_mcontext.gregs[i] = in.regs[i];
    u->uc_mcontext.gregs[REG_EFL] = (in.regs[GPRS - 1] & 0xcd5) | 0x202;
    u->uc_mcontext.gregs[REG_RIP] = start;
    for (int i = 0; i < 256; i++) /* xmm0-15 */
        x[160 + i] = (uint8_t)(i * 7 + 3);
    if (*(uint32_t *)(x + 464) != MAGIC)
        return;
    uint64_t present = *(uint64_t *)(x + 472) & 0xe4; /* AVX, mask registers, ZMM */
    *(uint64_t *)(x + 512) |= 3 | present;
    for (int i = 2; i < 8; i++)
        if (present >> i & 1) {
            uint32_t size, offset, unused[2];
            __cpuid_count(0xd, i, size, offset, unused[0], unused[1]);
            for (uint32_t at = 0; at < size; at++)
                x[offset + at] = (uint8_t)(at * 5 + i);
        }
}

static void leave(int signo, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    uint8_t *x = (void *)u->uc_mcontext.fpregs;
    size_t size = *(uint32_t *)(x + 464) == MAGIC ? *(uint32_t *)(x + 480) : 512;
    out.signal = signo;
    out.fault = (uint64_t)info->si_addr;
    memcpy(out.regs, u->uc_mcontext.gregs, (GPRS - 1) * 8);
    out.regs[GPRS - 1] = u->uc_mcontext.gregs[REG_EFL];
    out.rip = u->uc_mcontext.gregs[REG_RIP];
    memcpy(xstate[turn], x, size);
    memset(xstate[turn] + 6, 0, 18);   /* last x87 opcode, instruction and data pointers */
    memset(xstate[turn] + 464, 0, 48); /* the kernel's own words */
    xstate_size = size;
    siglongjmp(done, 1);
}

static void run(void)
{
    for (int i = 0; i < SIZE; i += 8) {
        *(uint64_t *)(data + i) = DATA + SIZE / 2 + (i * 37 % 2048);
        *(uint64_t *)(stack + i) = in.pad + i % 64;
    }
    memset(&out, 0, sizeof out);
    if (!sigsetjmp(done, 1))
        raise(SIGUSR1);
    memcpy(memory[turn], data, SIZE);
    memcpy(memory[turn] + SIZE, stack, SIZE);
}

static void *page(uint64_t address)
{
    void *at = (void *)(address & ~4095ul);
    at = mmap(at, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    memset(at, 0xcc, 8192);
    return at;
}

static void one(void)
{
    void *pages[3] = {page(in.address), page(in.slot), page(in.pad)};
    memcpy((void *)in.address, in.code, in.length);
    memcpy((void *)in.slot, in.slot_code, in.slot_length);
    for (turn = 0; turn < 2; turn++) {
        start = turn ? in.slot : in.address;
        if (turn) { /* as when it is probed */
            mprotect(pages[0], 8192, PROT_READ | PROT_WRITE);
            *(uint8_t *)in.address = 0xcc;
        }
        for (int i = 0; i < 3; i++)
            mprotect(pages[i], 8192, PROT_READ | PROT_EXEC);
        run();
        out.xstate_equal = turn && !memcmp(xstate[0], xstate[1], xstate_size);
        for (uint64_t i = 0; turn && i < 2 * SIZE; i++)
            if (memory[0][i] != memory[1][i]) {
                out.last = i < SIZE ? DATA + i : STACK + i - SIZE;
                if (!out.changed++)
                    out.first = out.last;
            }
        write(1, &out, sizeof out);
    }
    for (int i = 0; i < 3; i++)
        munmap(pages[i], 8192);
}

int main(void)
{
    static uint8_t alternate[65536];
    stack_t s = {.ss_sp = alternate, .ss_size = sizeof alternate};
    struct sigaction a = {.sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaltstack(&s, 0);
    sigfillset(&a.sa_mask);
    a.sa_sigaction = enter;
    sigaction(SIGUSR1, &a, 0);
    a.sa_sigaction = leave;
    int caught[] = {SIGTRAP, SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    for (int i = 0; i < 5; i++)
        sigaction(caught[i], &a, 0);
    int rw = PROT_READ | PROT_WRITE, fixed = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    data = mmap((void *)DATA, SIZE, rw, fixed, -1, 0);
    stack = mmap((void *)STACK, SIZE, rw, fixed, -1, 0);
    while (read(0, &in, sizeof in) == sizeof in)
        one();
    return 0;
}
