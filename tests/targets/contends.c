/* A thread waits three times for a mutex that the first one has, until it sleeps in the kernel for
 * it; another mutex nobody waits for. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER, other = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t both;
static volatile int waiter;

__attribute__((noipa)) void waits(void)
{
    pthread_mutex_lock(&lock);
    pthread_mutex_unlock(&lock);
}

static void *thread(void *unused)
{
    waiter = (int)syscall(SYS_gettid);
    for (int n = 0; n < 3; n++) {
        pthread_barrier_wait(&both);
        waits();
        pthread_barrier_wait(&both);
    }
    return unused;
}

static int sleeps(void)
{
    char name[64], line[256] = "", start[64];
    snprintf(name, sizeof name, "/proc/self/task/%d/syscall", waiter);
    snprintf(start, sizeof start, "%d %p ", SYS_futex, (void *)&lock);
    FILE *file = fopen(name, "r");
    if (file == 0)
        return 0;
    if (fgets(line, sizeof line, file) == 0)
        line[0] = 0;
    fclose(file);
    return strncmp(line, start, strlen(start)) == 0;
}

int main(void)
{
    pthread_t second;
    pthread_barrier_init(&both, 0, 2);
    pthread_create(&second, 0, thread, 0);
    for (int n = 0; n < 3; n++) {
        pthread_mutex_lock(&lock);
        pthread_barrier_wait(&both);
        while (!sleeps())
            sched_yield();
        pthread_mutex_unlock(&lock);
        pthread_barrier_wait(&both);
    }
    pthread_mutex_lock(&other);
    pthread_mutex_unlock(&other);
    return pthread_join(second, 0);
}
