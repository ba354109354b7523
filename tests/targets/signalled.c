/* Threads that are sent a signal at a time, and the next when the last has been handled: one that
 * is lost is waited for without end. Until the test says stop. */
#include "hazard.h"
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <time.h>

enum { PAIRS = 3 };

static pthread_t workers[PAIRS], senders[PAIRS];
static sem_t handled[PAIRS];
static volatile int stop;
static long signals;

static void on_signal(int number, siginfo_t *info, void *unused)
{
    (void)number, (void)unused;
    __atomic_add_fetch(&signals, 1, __ATOMIC_SEQ_CST);
    sem_post(&handled[info->si_value.sival_int]);
}

static void *work(void *unused)
{
    while (!stop)
        probed();
    return unused;
}

static void *send(void *argument)
{
    union sigval which = {.sival_int = (int)(long)argument};
    long sent = 0;
    for (; !stop; sent++) {
        struct timespec late;
        CHECK(clock_gettime(CLOCK_REALTIME, &late) == 0);
        late.tv_sec += 60;
        CHECK(pthread_sigqueue(workers[which.sival_int], SIGRTMIN + 1, which) == 0);
        while (sem_timedwait(&handled[which.sival_int], &late) != 0)
            CHECK(errno == EINTR);
    }
    return (void *)sent;
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    long sent = 0;
    void *its;
    char byte;
    CHECK(sigaction(SIGRTMIN + 1, &action, 0) == 0);
    gate("ready");
    for (long i = 0; i < PAIRS; i++) {
        CHECK(sem_init(&handled[i], 0, 0) == 0);
        CHECK(pthread_create(&workers[i], 0, work, 0) == 0);
        CHECK(pthread_create(&senders[i], 0, send, (void *)i) == 0);
    }
    say("running\n");
    CHECK(read(0, &byte, 1) == 1);
    stop = 1;
    for (int i = 0; i < PAIRS; i++) {
        CHECK(pthread_join(senders[i], &its) == 0 && pthread_join(workers[i], 0) == 0);
        sent += (long)its;
    }
    CHECK(sent == signals);
    gate("stopped");
    return finish();
}
