/* Processes whose threads make children in several ways, and which end in the middle of it: by
 * SIGKILL, by exit, by executing this program. The first process collects all of them. */
#include "hazard.h"
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

extern char **environ;

static void execute(const char *as)
{
    char *arguments[] = {"storm", (char *)as, 0};
    execve("/proc/self/exe", arguments, environ);
    _exit(9);
}

static void leaf(void)
{
    for (int i = 0; i < 3; i++)
        probed();
    _exit(0);
}

static void *forks(void *seed)
{
    unsigned next = (unsigned)(long)seed;
    for (int i = 0; i < 40; i++) {
        int way = rand_r(&next) % 4;
        if (way == 0) {
            struct clone_args arguments = {.flags = CLONE_PARENT};
            if (syscall(SYS_clone3, &arguments, sizeof arguments) == 0)
                leaf();
        } else if (way == 1) {
            if (vfork() == 0)
                execute("child");
        } else if (fork() == 0)
            leaf();
    }
    return seed;
}

static void worker(int end)
{
    pthread_t threads[3];
    unsigned next = getpid();
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], 0, forks, (void *)(long)rand_r(&next)) == 0);
    usleep(rand_r(&next) % 8000);
    if (end == 0)
        kill(getpid(), SIGKILL);
    if (end == 1)
        _exit(0);
    if (end == 2)
        execute("again");
    for (int i = 0; i < 3; i++)
        CHECK(pthread_join(threads[i], 0) == 0);
    _exit(0);
}

static void collect(void)
{
    int status;
    while (wait(&status) > 0)
        CHECK(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
    CHECK(errno == ECHILD);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        probed();
        if (!strcmp(argv[1], "again"))
            collect();
        return 0;
    }
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    gate("ready");
    for (int round = 0; round < 8; round++) {
        for (int i = 0; i < 4; i++)
            if (fork() == 0)
                worker((round + i) % 4);
        collect();
    }
    gate("stopped");
    return finish();
}
