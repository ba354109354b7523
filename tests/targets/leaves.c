/* A thread that ends, and a process that does, where something keeps them from it.
 *   leaves thread FILE: its last thread ends with FILE open, in files of its own
 *   leaves makes: begins threads, one after the other */
#include "hazard.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

static const char *path;

static void *leave(void *unused)
{
    CHECK(unshare(CLONE_FILES) == 0);
    CHECK(open(path, O_RDONLY) >= 0);
    say("opened\n");
    gate("leaving");
    return unused;
}

static void *nothing(void *unused)
{
    probed();
    return unused;
}

int main(int count, char **arguments)
{
    pthread_t thread;
    CHECK(count > 1);
    gate("ready");
    if (!strcmp(arguments[1], "thread")) {
        path = arguments[2];
        CHECK(pthread_create(&thread, 0, leave, 0) == 0);
        CHECK(pthread_join(thread, 0) == 0);
    } else {
        for (int i = 0; i < 50; i++)
            CHECK(pthread_create(&thread, 0, nothing, 0) == 0 && pthread_join(thread, 0) == 0);
    }
    probed();
    gate("stopped");
    return finish();
}
