/* Threads that give themselves, and one another, a new name between two calls of what is probed. */
#include "hazard.h"
#include <pthread.h>
#include <sys/prctl.h>

static pthread_barrier_t turn;

static void *work(void *unused)
{
    (void)unused;
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "own %d", i);
        prctl(PR_SET_NAME, name);
        probed();
    }
    pthread_barrier_wait(&turn);
    pthread_barrier_wait(&turn);
    probed();
    return 0;
}

int main(void)
{
    pthread_t thread;
    pthread_barrier_init(&turn, 0, 2);
    gate("ready");
    CHECK(pthread_create(&thread, 0, work, 0) == 0);
    pthread_barrier_wait(&turn);
    CHECK(pthread_setname_np(thread, "given") == 0);
    pthread_barrier_wait(&turn);
    pthread_join(thread, 0);
    prctl(PR_SET_NAME, "");
    probed();
    return finish();
}
