/* For dumps: threads at known places, memory of several kinds, a child that is waited for. */
#include "hazard.h"
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { PAGE = 4096, LARGE = 64 * PAGE };

struct detail { long number; char text[16]; } shown = {4711, "in the core"};
char *secret, *sparse, *unforked, *filled;
static volatile sig_atomic_t childs;

static void on_child(int number)
{
    (void)number;
    childs++;
}

static void *map(void)
{
    void *memory = mmap(0, LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

__attribute__((noinline)) static long wait_deep(long depth)
{
    if (depth)
        return wait_deep(depth - 1) + 1;
    pause();
    return 0;
}

static void *sleeper(void *unused)
{
    wait_deep(3);
    return unused;
}

/* Sits in a wait that sees every kind of child; there must never be one but its own. */
static void *waiter(void *result)
{
    int status;
    *(pid_t *)result = waitpid(-1, &status, __WALL);
    return result;
}

__attribute__((noinline)) static void work(long round)
{
    struct detail local = {round, "here"};
    __asm__ volatile("" : : "r"(&local) : "memory");
    probed();
    __asm__ volatile("" : : "r"(&local) : "memory");
}

int main(void)
{
    pthread_t sleeping, waiting;
    pid_t child, found = 0;
    struct sigaction action = {.sa_handler = on_child, .sa_flags = SA_RESTART};
    secret = map();
    sparse = map();
    unforked = map();
    filled = map();
    memset(filled, 'f', LARGE);
    memset(secret, 's', LARGE);
    memset(unforked, 'u', LARGE);
    sparse[5 * PAGE] = 'x';
    CHECK(madvise(secret, LARGE, MADV_DONTDUMP) == 0);
    CHECK(madvise(unforked, LARGE, MADV_DONTFORK) == 0);
    CHECK(sigaction(SIGCHLD, &action, 0) == 0);
    child = fork();
    CHECK(child >= 0);
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pause();
        _exit(0);
    }
    CHECK(pthread_create(&sleeping, 0, sleeper, 0) == 0);
    CHECK(pthread_create(&waiting, 0, waiter, &found) == 0);
    gate("ready");
    for (long round = 0; round < 100; round++)
        work(round);
    gate("stopped");
    CHECK(childs == 0); /* nobody's SIGCHLD but that of the child, which lives */
    CHECK(kill(child, SIGKILL) == 0);
    CHECK(pthread_join(waiting, 0) == 0);
    CHECK(found == child);
    CHECK(childs == 1);
    CHECK(waitpid(-1, 0, __WALL) == -1 && errno == ECHILD);
    return finish();
}
