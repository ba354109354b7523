/* One thread that calls probed() without pause until the test says stop. */
#include "hazard.h"
#include <poll.h>

int main(void)
{
    struct pollfd in = {.fd = 0, .events = POLLIN};
    gate("ready");
    while (poll(&in, 1, 0) == 0)
        for (int i = 0; i < 1000; i++)
            probed();
    gate("stopping");
    gate("stopped");
    return finish();
}
