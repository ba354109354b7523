/* A restartable sequence (rseq(2)), as tcmalloc counts in:   restartable counts|handles|spins
 * counts: goes through it a hundred times; handles: so in its handler of SIGTRAP; spins: the main
 * thread stays within, until another one lets it go on. Who finds within it that it is not
 * registered any more is "unprotected". */
#include "hazard.h"
#include <pthread.h>
#include <signal.h>
#include <sys/rseq.h>

long counter, entered, aborts, unprotected, let_go;

/* long sequence(struct rseq *). The counter is what it commits, with its last instruction. */
long sequence(struct rseq *area);
__asm__(".pushsection __rseq_cs,\"aw\"\n.balign 32\n"
        "descriptor: .long 0,0\n.quad 1f,2f-1f,4f\n.popsection\n"
        ".pushsection .text\n.globl sequence,inside\n"
        ".type sequence,@function\n"
        "sequence: .cfi_startproc\n"
        "3:\tlea descriptor(%rip),%rax\n"
        "\tmov %rax,8(%rdi)\n"
        "1:\tmovq $1,entered(%rip)\n"
        "inside:\tcmpq $0,8(%rdi)\n"
        "\tje 5f\n"
        "\tmov counter(%rip),%rax\n"
        "\tcmpq $0,let_go(%rip)\n"
        "\tje inside\n"
        "\tinc %rax\n"
        "\tmov %rax,counter(%rip)\n"
        "2:\tret\n"
        "5:\tincq unprotected(%rip)\n"
        "\tret\n"
        "\t.byte 0x0f,0xb9,0x3d\n\t.long 0x53053053\n"
        "4:\tincq aborts(%rip)\n"
        "\tjmp 3b\n"
        ".cfi_endproc\n.size sequence,.-sequence\n.popsection");

static struct rseq *area(void)
{
    return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static void *keep(void *unused)
{
    while (!__atomic_load_n(&entered, __ATOMIC_RELAXED))
        ;
    gate("ready");
    __atomic_store_n(&let_go, 1, __ATOMIC_RELAXED);
    return unused;
}

static void count_up(int signo)
{
    for (int i = 0; i < 100; i++)
        sequence(area());
    (void)signo;
}

int main(int count, char **arguments)
{
    struct sigaction action = {.sa_handler = count_up};
    pthread_t keeper;
    CHECK(count == 2);
    if (__rseq_size == 0) {
        say("without\nready\n");
        return 0;
    }
    if (!strcmp(arguments[1], "spins")) {
        CHECK(pthread_create(&keeper, 0, keep, 0) == 0);
        sequence(area());
        CHECK(pthread_join(keeper, 0) == 0 && counter == 1);
    } else {
        let_go = 1;
        int handles = !strcmp(arguments[1], "handles");
        CHECK(!handles || sigaction(SIGTRAP, &action, 0) == 0);
        gate("ready");
        if (handles)
            CHECK(raise(SIGTRAP) == 0);
        else
            count_up(0);
        CHECK(counter == 100);
    }
    CHECK(unprotected == 0);
    say("aborts %ld\n", aborts);
    probed();
    gate("stopped");
    return finish();
}
