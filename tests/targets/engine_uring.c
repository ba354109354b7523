/* A process with a thread of the kernel's own: io_uring's queue poller, which runs no user code. */
#include "hazard.h"
#include <linux/io_uring.h>
#include <sys/syscall.h>

int main(void)
{
    struct io_uring_params parameters = {.flags = IORING_SETUP_SQPOLL, .sq_thread_idle = 1000000};
    if (syscall(SYS_io_uring_setup, 8, &parameters) < 0)
        say("none\n");
    gate("ready");
    for (int i = 0; i < 10; i++)
        probed();
    gate("stopped");
    return finish();
}
