/* What depends on who is parent and on privilege:   credentials pdeathsig|exec PROGRAM|who|changes
 * pdeathsig: a child is told that the thread that made it has ended; exec: executes PROGRAM, a
 * setuid copy of this one, which says who it is; changes: becomes another user between two calls. */
#include "hazard.h"
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static int ready[2];
static pid_t child;

static void in_the_child(void)
{
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &set, 0) == 0 && prctl(PR_SET_PDEATHSIG, SIGUSR1) == 0);
    CHECK(write(ready[1], "x", 1) == 1);
    CHECK(sigwaitinfo(&set, &info) == SIGUSR1);
    _exit(7);
}

static void *make_child(void *unused)
{
    char byte;
    probed();
    child = fork();
    if (child == 0)
        in_the_child();
    CHECK(child > 0 && read(ready[0], &byte, 1) == 1);
    return unused;
}

int main(int count, char **arguments)
{
    pthread_t maker;
    int status;
    CHECK(count > 1);
    if (!strcmp(arguments[1], "who")) {
        say("user %d %d\n", (int)getuid(), (int)geteuid());
        gate("executed");
        probed();
        gate("stopped");
        return finish();
    }
    gate("ready");
    if (!strcmp(arguments[1], "changes")) {
        probed();
        CHECK(setresgid(65533, 65533, 65533) == 0 && setresuid(65534, 65534, 65534) == 0);
        probed();
        gate("stopped");
        return finish();
    }
    if (!strcmp(arguments[1], "exec")) {
        probed();
        char *const again[] = {arguments[2], "who", 0};
        execv(arguments[2], again);
        CHECK(0);
    }
    CHECK(pipe(ready) == 0);
    CHECK(pthread_create(&maker, 0, make_child, 0) == 0 && pthread_join(maker, 0) == 0);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    gate("stopped");
    return finish();
}
