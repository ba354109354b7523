/* Hundreds of threads, created and ending all the time, until the test says stop. */
#include "hazard.h"
#include <poll.h>
#include <pthread.h>

enum { BATCH = 300 };

long leavers;
void leave(void); /* ends the thread by a system call of its own: a probe there never returns */
__asm__(".pushsection .text\n.globl leave,leave_syscall\n.type leave,@function\n"
        ".type leave_syscall,@function\n"
        "leave: lock incq leavers(%rip)\n\tmov $60,%eax\n\txor %edi,%edi\n"
        "leave_syscall: syscall\n\tud2\n.size leave,.-leave\n.popsection");

static void *work(void *argument)
{
    for (int i = 0; i < 3; i++)
        probed();
    if ((long)argument % 2)
        leave();
    return argument;
}

int main(void)
{
    struct pollfd in = {.fd = 0, .events = POLLIN};
    pthread_t threads[BATCH];
    gate("ready");
    for (long rounds = 1; poll(&in, 1, 0) == 0; rounds++) {
        for (long i = 0; i < BATCH; i++)
            CHECK(pthread_create(&threads[i], 0, work, (void *)i) == 0);
        for (long i = 0; i < BATCH; i++)
            CHECK(pthread_join(threads[i], 0) == 0);
        CHECK(calls == rounds * BATCH * 3 && leavers == rounds * BATCH / 2);
        if (rounds == 1)
            say("running\n");
    }
    gate("stopping"); /* which takes the byte that ended the loop */
    gate("stopped");
    say("leavers %ld\n", leavers);
    return finish();
}
