/* Several threads make children all the time, from the first gate on; at the second each child, and
 * then the first process, calls probed() once. */
#include "hazard.h"
#include <pthread.h>
#include <sys/wait.h>

#define THREADS 4
#define CHILDREN 12

static int waiting[2];

static void *forks(void *unused)
{
    for (int i = 0; i < CHILDREN; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            char byte;
            close(waiting[1]);
            CHECK(read(waiting[0], &byte, 1) == 0);
            probed();
            _exit(0);
        }
    }
    return unused;
}

int main(void)
{
    pthread_t threads[THREADS];
    int status;
    CHECK(pipe(waiting) == 0);
    gate("ready");
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], 0, forks, 0) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], 0) == 0);
    gate("grown");
    close(waiting[1]);
    for (int i = 0; i < THREADS * CHILDREN; i++)
        CHECK(wait(&status) > 0 && status == 0);
    probed();
    gate("stopped");
    return finish();
}
