/* The leader calls probed() until another thread does exec, once a file is there: of the name that
 * is the first argument. The program of the second is the new image, which this one is, too. */
#include "hazard.h"
#include <pthread.h>

static char **names;

static void *replace(void *argument)
{
    while (access(names[1], F_OK) != 0)
        usleep(100);
    execl(names[2], names[2], (char *)0);
    CHECK(!"exec");
    return argument;
}

int main(int number, char **arguments)
{
    pthread_t thread;
    names = arguments;
    if (number < 3) {
        probed();
        say("replaced\n");
        return finish();
    }
    CHECK(pthread_create(&thread, 0, replace, 0) == 0);
    gate("ready");
    for (;;)
        probed();
}
