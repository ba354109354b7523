/* Serves lines while another thread works: "w" has it call `probed`, "p" asks for an answer. */
#include "hazard.h"
#include <pthread.h>

static int pipes[2];

static void *work(void *argument)
{
    char byte;
    while (read(pipes[0], &byte, 1) == 1) {
        probed();
        say("worked\n");
    }
    return argument;
}

int main(void)
{
    pthread_t thread;
    char byte;
    CHECK(pipe(pipes) == 0);
    CHECK(pthread_create(&thread, 0, work, 0) == 0);
    say("ready\n");
    while (read(0, &byte, 1) == 1 && byte != 'e') {
        if (byte == 'w')
            CHECK(write(pipes[1], "w", 1) == 1);
        if (byte == 'p')
            say("here\n");
    }
    CHECK(close(pipes[1]) == 0 && pthread_join(thread, 0) == 0);
    return finish();
}
