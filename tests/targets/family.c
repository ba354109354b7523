/* A family of processes, each of which calls what is probed a known number of times.
 *
 * tree DEPTH WIDTH: each process forks; storm: several threads fork all the time, others are busy;
 * spawn: vfork, posix_spawn and exec of this program; orphans: parents die of SIGKILL right after
 * the fork. Who reports "total N" has counted the calls of all of them. */
#include "hazard.h"
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

extern char **environ;
static long *total; /* shared by the whole family */
static volatile int stop;

static void call(int times)
{
    for (int i = 0; i < times; i++)
        probed();
    __atomic_add_fetch(total, times, __ATOMIC_SEQ_CST);
}

static void collect(pid_t pid)
{
    int status;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void tree(int depth, int width)
{
    pid_t children[8];
    call(5);
    for (int i = 0; depth && i < width; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            tree(depth - 1, width);
            _exit(0);
        }
        call(3);
    }
    for (int i = 0; depth && i < width; i++)
        collect(children[i]);
    call(2);
}

static void *busy(void *unused)
{
    while (!stop)
        call(1);
    return unused;
}

static void *forks(void *unused)
{
    for (int i = 0; i < 15; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            call(20);
            _exit(0);
        }
        collect(pid);
    }
    return unused;
}

static void storm(void)
{
    pthread_t workers[2], forkers[3];
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&workers[i], 0, busy, 0) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&forkers[i], 0, forks, 0) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_join(forkers[i], 0) == 0);
    stop = 1;
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(workers[i], 0) == 0);
}

static void spawn(void)
{
    char *arguments[] = {"family", "child", 0};
    pid_t pid;
    for (int i = 0; i < 5; i++) {
        if ((pid = vfork()) == 0) {
            probed();
            execve("/proc/self/exe", arguments, environ);
            _exit(8);
        }
        *total += 1 + 5;
        collect(pid);
        CHECK(posix_spawn(&pid, "/proc/self/exe", 0, 0, arguments, environ) == 0);
        *total += 5;
        collect(pid);
        call(1);
    }
}

static void orphans(void)
{
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    for (int i = 0; i < 20; i++) {
        pid_t middle = fork();
        if (middle == 0) {
            pid_t me = getpid();
            if (fork() == 0) {
                call(5);
                _exit(0);
            }
            kill(me, SIGKILL);
        }
        for (int ended = 0, status; ended < 2; ended++)
            CHECK(wait(&status) > 0 && (WIFEXITED(status) || WTERMSIG(status) == SIGKILL));
    }
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    total = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(total != MAP_FAILED);
    if (!strcmp(mode, "child")) {
        call(5);
        return 0;
    }
    gate("ready");
    if (!strcmp(mode, "tree"))
        tree(atoi(argv[2]), atoi(argv[3]));
    else if (!strcmp(mode, "storm"))
        storm();
    else if (!strcmp(mode, "spawn"))
        spawn();
    else
        orphans();
    say("total %ld\n", *total);
    gate("stopped");
    return finish();
}
