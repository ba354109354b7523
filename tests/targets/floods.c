/* As many threads as it is told call probed() as fast as they can, until the test says stop; with a
 * second argument the first of them calls begun() once the others are at it. */
#include "hazard.h"
#include <pthread.h>

enum { MOST = 1200 };
static volatile int stop;
static long mine[MOST];

void begun(void);
__asm__(".pushsection .text\n.globl begun\n.type begun,@function\n"
        "begun: .cfi_startproc\n\tlea 1(%rip),%rax\n\tret\n.cfi_endproc\n.size begun,.-begun\n.popsection");

static void *work(void *argument)
{
    long *count = argument;
    while (!stop) {
        probed();
        ++*count;
    }
    return 0;
}

int main(int number, char **arguments)
{
    static pthread_t threads[MOST];
    pthread_attr_t small;
    long sum = 0, most = atol(arguments[1]);
    CHECK(number > 1 && most <= MOST);
    CHECK(pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, 1 << 16) == 0);
    gate("ready");
    for (long i = 0; i < most; i++)
        CHECK(pthread_create(&threads[i], &small, work, &mine[i]) == 0);
    for (long i = 0; i < most; i++)
        while (!*(volatile long *)&mine[i])
            usleep(100);
    say("running\n");
    if (number > 2)
        begun();
    gate("flooding");
    stop = 1;
    for (long i = 0; i < most; i++) {
        CHECK(pthread_join(threads[i], 0) == 0);
        sum += mine[i];
    }
    CHECK(sum == calls);
    gate("stopped");
    return finish();
}
