/* Data that is written and read an exact number of times, by many threads. */
#include "hazard.h"
#include <pthread.h>

volatile long eight;
volatile int four;
volatile short two;
volatile char one;
volatile long unused[4];
struct { char pad; volatile char bytes[15]; } odd __attribute__((aligned(16)));

void touch(void);
__asm__(".pushsection .text\n.globl touch\n.type touch,@function\n"
        "touch: movq $7,eight(%rip)\n movl $5,four(%rip)\n movw $3,two(%rip)\n"
        "movb $1,one(%rip)\n mov eight(%rip),%rax\n mov four(%rip),%eax\n"
        "ret\n.size touch,.-touch\n.popsection");

static void *work(void *unused_argument)
{
    for (int i = 0; i < 10; i++)
        touch();
    return unused_argument;
}

static void crowd(int size)
{
    pthread_t threads[64];
    for (int i = 0; i < size; i++)
        CHECK(pthread_create(&threads[i], 0, work, 0) == 0);
    for (int i = 0; i < size; i++)
        CHECK(pthread_join(threads[i], 0) == 0);
}

static pthread_barrier_t barrier;

static void *wait_and_work(void *unused_argument)
{
    pthread_barrier_wait(&barrier);
    return work(unused_argument);
}

int main(void)
{
    pthread_t threads[30]; /* there before the watchpoints are */
    pthread_barrier_init(&barrier, 0, 31);
    for (int i = 0; i < 30; i++)
        CHECK(pthread_create(&threads[i], 0, wait_and_work, 0) == 0);
    gate("ready");
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < 30; i++)
        CHECK(pthread_join(threads[i], 0) == 0);
    crowd(20);
    CHECK(eight == 7 && four == 5 && two == 3 && one == 1);
    gate("watched");
    crowd(10);
    gate("stopped");
    return finish();
}
