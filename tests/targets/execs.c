/* exec of itself, from its first thread or another; each image counts for itself. */
#include "hazard.h"
#include <pthread.h>

static char *image, number[16];

static void *go_on(void *unused)
{
    execl(image, image, number, (char *)0);
    CHECK(!"exec");
    return unused;
}

static void *wait_for_ever(void *unused)
{
    for (;;)
        pause();
    return unused;
}

int main(int count, char **arguments)
{
    pthread_t thread;
    int left = count > 1 ? atoi(arguments[1]) : 6;
    image = arguments[0];
    if (count == 1)
        gate("ready");
    for (int i = 0; i < 10; i++)
        probed();
    CHECK(calls == 10);
    if (!left) {
        gate("stopped");
        return finish();
    }
    snprintf(number, sizeof number, "%d", left - 1);
    CHECK(pthread_create(&thread, 0, wait_for_ever, 0) == 0);
    if (left % 2)
        CHECK(pthread_create(&thread, 0, go_on, 0) == 0);
    else
        go_on(0);
    pthread_join(thread, 0);
    return 1;
}
