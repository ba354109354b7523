/* Instructions and functions that are awkward to probe, called one after the other. */
#include "hazard.h"
#include <signal.h>
#include <setjmp.h>

/* one byte long, and what follows it is watched */
long single(long value);
__asm__(".pushsection .text\n.globl single,after_single\n.type single,@function\n"
        "single: push %rbx\nafter_single: mov %rdi,%rbx\n\tlea 1(%rbx),%rax\n\tpop %rbx\n\tret\n"
        ".size single,.-single\n.popsection");

/* its return address is pushed into a word that is watched */
long pushes(void);
extern char watched_stack[];
__asm__(".pushsection .bss\n.globl watched_stack,watched_word\n.type watched_word,@object\n"
        ".balign 16\nwatched_stack: .skip 4096\nwatched_word: .skip 8\n.size watched_word,8\n"
        ".skip 64\n.popsection\n"
        ".pushsection .text\n.globl pushes,pushes_call\n.type pushes,@function\n"
        ".type pushes_call,@function\n"
        "pushes: mov %rsp,%rdx\n\tlea watched_word+8(%rip),%rsp\n"
        "pushes_call: call callee\n\tmov %rsp,%rax\n\tmov %rdx,%rsp\n\tret\n"
        "callee: nop\n\tret\n.size pushes,.-pushes\n.popsection");

/* the flags that it saves must not show how it was run */
unsigned long flags(void);
__asm__(".pushsection .text\n.globl flags\n.type flags,@function\n"
        "flags: pushfq\n\tpop %rax\n\tret\n.size flags,.-flags\n.popsection");

/* loads from where it is told; the handler gives it an address that works */
static long good = 7;
long load(long *from);
__asm__(".pushsection .text\n.globl load\n.type load,@function\n"
        "load: mov (%rdi),%rax\n\tret\n.size load,.-load\n.popsection");
static sigjmp_buf out;

static void faulted(int signo)
{
    CHECK(signo == SIGSEGV);
    siglongjmp(out, 1);
}

static volatile sig_atomic_t handled;
static void on_user(int signo)
{
    CHECK(signo == SIGUSR1);
    handled++;
}

int main(void)
{
    CHECK(signal(SIGSEGV, faulted) != SIG_ERR && signal(SIGUSR1, on_user) != SIG_ERR);
    gate("ready");
    for (long i = 0; i < 10; i++)
        CHECK(single(i) == i + 1);
    gate("single");
    for (int i = 0; i < 10; i++)
        CHECK(pushes() == (long)(watched_stack + 4096 + 8));
    gate("pushes");
    CHECK(load(&good) == 7);
    if (sigsetjmp(out, 1) == 0) {
        load((long *)8);
        CHECK(0);
    }
    gate("loaded");
    unsigned long seen = flags();
    CHECK(handled == 1 && !(seen & 0x100));
    gate("stopped");
    return finish();
}
