/* Asks for the time by functions that libc has the kernel's own code (vDSO) for. */
#include "hazard.h"
#include <sys/time.h>
#include <time.h>

int main(void)
{
    struct timeval now;
    gate("ready");
    for (int i = 0; i < 10; i++)
        /* time() may be a tick behind: it says the second of the last one. */
        CHECK(gettimeofday(&now, 0) == 0 && time(0) + 1 >= now.tv_sec);
    gate("timed");
    return finish();
}
