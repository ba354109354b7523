/* One thread forks all the time, another executes the program again in the middle of it.
 *
 * The children outlive the image that made them; the next one collects them. */
#include "hazard.h"
#include <pthread.h>
#include <sys/wait.h>

static char **arguments;
static volatile long forked;

static void *forks(void *unused)
{
    for (;;) {
        pid_t child = fork();
        if (child == 0) {
            for (int i = 0; i < 3; i++)
                probed();
            _exit(calls == 3 ? 0 : 5);
        }
        forked++;
    }
    return unused;
}

static void *execute(void *left)
{
    static char count[24];
    unsigned until = (unsigned)(getpid() * 7 + (long)left * 13) % 5 + 1;
    snprintf(count, sizeof count, "%ld", (long)left - 1);
    arguments[1] = count;
    while (forked < until)
        ;
    execv("/proc/self/exe", arguments);
    CHECK(0);
    return left;
}

static long collect(void)
{
    long count = 0;
    int status;
    while (wait(&status) > 0) {
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        count++;
    }
    CHECK(errno == ECHILD);
    return count;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    long left = argc > 1 ? atol(argv[1]) : 0;
    arguments = argv;
    if (!argv[2])
        exit(3);
    if (*argv[2] == '1') {
        *argv[2] = '0';
        gate("ready");
    }
    collect();
    if (left > 0) {
        CHECK(pthread_create(&thread, 0, forks, 0) == 0);
        CHECK(pthread_create(&thread, 0, execute, (void *)left) == 0);
        pthread_join(thread, 0);
    }
    gate("stopped");
    return finish();
}
