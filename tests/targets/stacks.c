/* Stacks of all kinds. Each command, one letter on stdin, leads to ``marked`` by another way; the
 * functions on it are the test's to know. Ends at the end of stdin. */
#include "hazard.h"
#include <alloca.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define KEEP __attribute__((noinline, noclone))
/* Nothing is left of a tail call on the stack, and an empty asm keeps calls from being one. */
#define AFTER __asm__ volatile("" ::: "memory")

volatile long sink;

KEEP void marked(void)
{
    sink++;
    AFTER;
}

/* --- recursion */

KEEP static void recurse(int left)
{
    if (left)
        recurse(left - 1);
    else
        marked();
    AFTER;
}

/* --- signals, on the thread's stack and on another */

static char other_stack[1 << 16];

KEEP static void on_signal(int number)
{
    (void)number;
    marked();
    AFTER;
}

KEEP static void interrupted(void)
{
    raise(SIGUSR1);
    AFTER;
}

static void handle(int flags)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
}

/* A place that a signal interrupts exactly: the trap is its last byte. */
void trapped(void);
__asm__(".pushsection .text\n.globl trapped\n.type trapped,@function\n"
        "trapped: .cfi_startproc\n\tpush %rbx\n.cfi_adjust_cfa_offset 8\n.cfi_rel_offset rbx,0\n"
        "\tud2\n\tpop %rbx\n.cfi_adjust_cfa_offset -8\n.cfi_restore rbx\n\tret\n"
        ".cfi_endproc\n.size trapped,.-trapped\n.popsection");

static sigjmp_buf back;

KEEP static void on_trap(int number)
{
    (void)number;
    marked();
    siglongjmp(back, 1);
}

KEEP static void faults(void)
{
    struct sigaction action = {.sa_handler = on_trap};
    CHECK(sigaction(SIGILL, &action, NULL) == 0);
    if (!sigsetjmp(back, 1))
        trapped();
    AFTER;
}

/* --- frames of which rsp is not enough */

KEEP static void allocates(int size)
{
    volatile char *more = alloca(size);
    more[0] = 1;
    marked();
    more[size - 1] = more[0];
}

KEEP static void aligned(int size)
{
    /* gcc finds its arguments by r10, and the CFA by an expression. */
    volatile char wide[64] __attribute__((aligned(64)));
    volatile char *more = alloca(size);
    wide[0] = more[0] = 1;
    marked();
    more[1] = wide[0];
}

/* --- code without any CFI */

void bare_frames(void (*call)(void));
void bare_looped(void (*call)(void));
void bare_lost(void (*call)(void));
__asm__(".pushsection .text\n"
        ".globl bare_frames\n.type bare_frames,@function\n"
        "bare_frames: push %rbp\n\tmov %rsp,%rbp\n\tsub $48,%rsp\n\tcall *%rdi\n\tleave\n\tret\n"
        ".size bare_frames,.-bare_frames\n"
        /* Its frame pointer leads to itself. */
        ".globl bare_looped\n.type bare_looped,@function\n"
        "bare_looped: push %rbp\n\tmov %rsp,%rax\n\tsub $48,%rsp\n\tand $-16,%rsp\n\tmov %rsp,%rbp\n"
        "\tmov %rax,16(%rsp)\n\tmov %rbp,(%rsp)\n\tlea 1f(%rip),%rcx\n\tmov %rcx,8(%rsp)\n"
        "\tcall *%rdi\n1:\tmov 16(%rsp),%rsp\n\tpop %rbp\n\tret\n"
        ".size bare_looped,.-bare_looped\n"
        /* Its frame pointer is something else. */
        ".globl bare_lost\n.type bare_lost,@function\n"
        "bare_lost: push %rbp\n\tmov $0x1235,%ebp\n\tsub $48,%rsp\n\tcall *%rdi\n\tadd $48,%rsp\n\tpop %rbp\n\tret\n"
        ".size bare_lost,.-bare_lost\n"
        ".popsection");

KEEP static void by_frames(void)
{
    bare_frames(marked);
    AFTER;
}

KEEP static void looped(void)
{
    bare_looped(marked);
    AFTER;
}

KEEP static void lost(void)
{
    bare_lost(marked);
    AFTER;
}

/* --- a stack that somebody has written to */

KEEP __attribute__((optimize("no-omit-frame-pointer"))) static void overwritten(uintptr_t word)
{
    uintptr_t *frame = __builtin_frame_address(0);
    uintptr_t saved = frame[1];
    *(volatile uintptr_t *)&frame[1] = word;
    marked();
    *(volatile uintptr_t *)&frame[1] = saved;
}

/* rsp is not where a stack is. */
void astray(void (*call)(void));
__asm__(".pushsection .text\n.globl astray\n.type astray,@function\n"
        "astray: .cfi_startproc\n\tpush %rbp\n.cfi_adjust_cfa_offset 8\n.cfi_rel_offset rbp,0\n"
        "\tmov %rsp,%rbp\n.cfi_def_cfa_register rbp\n\tmov $0x10000,%ebp\n\tmov %rsp,%rbx\n"
        "\tand $-16,%rsp\n\tsub $64,%rsp\n\tmov %rbx,(%rsp)\n\tcall *%rdi\n\tmov (%rsp),%rsp\n\tpop %rbp\n"
        ".cfi_def_cfa rsp,8\n\tret\n.cfi_endproc\n.size astray,.-astray\n.popsection");

KEEP static void goes_astray(void)
{
    long kept;
    __asm__ volatile("mov %%rbx,%0\n\tsub $136,%%rsp\n\tcall astray\n\tadd $136,%%rsp\n\tmov %0,%%rbx"
                     : "=&r"(kept)
                     : "D"(marked)
                     : "rax", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc", "rbx");
}

/* --- code that is made at run time: push rbp; mov rsp,rbp; call *rdi; pop rbp; ret */

static void (*made)(void (*)(void));

static void make(void)
{
    static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
                      -1, 0);
    CHECK(page != MAP_FAILED);
    memcpy(page + 64, code, sizeof code);
    made = (void (*)(void (*)(void)))(uintptr_t)(page + 64);
    say("made %ld\n", (long)(uintptr_t)made);
}

KEEP static void calls_made(void)
{
    made(marked);
    AFTER;
}

KEEP static void in_child(void)
{
    pid_t child = vfork();
    if (!child) {
        marked();
        _exit(0);
    }
    CHECK(waitpid(child, NULL, 0) == child);
}

KEEP static void serve(char command)
{
    stack_t there = {.ss_sp = other_stack, .ss_size = sizeof other_stack};
    switch (command) {
    case 'r': recurse(20); break;
    case 's': handle(0); interrupted(); break;
    case 'o':
        CHECK(sigaltstack(&there, NULL) == 0);
        handle(SA_ONSTACK);
        interrupted();
        break;
    case 't': faults(); break;
    case 'a': allocates(100 + (int)sink % 2); break;
    case 'g': aligned(100 + (int)sink % 2); break;
    case 'f': by_frames(); break;
    case 'l': looped(); break;
    case 'b': lost(); break;
    case 'w': overwritten(0x1234567); break;
    case 'z': overwritten(0); break;
    case 'x': goes_astray(); break;
    case 'j': calls_made(); break;
    case 'v': in_child(); break;
    default: CHECK(0);
    }
    AFTER;
}

int main(void)
{
    char command;
    make();
    say("ready\n");
    while (read(0, &command, 1) == 1) {
        if (command == '\n')
            break;
        serve(command);
        say("done\n");
    }
    return finish();
}
