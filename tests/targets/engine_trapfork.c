/* A child has what its parent set for SIGTRAP: a handler, or that it is ignored.
 *
 * The thread that forks blocks SIGTRAP, so that a breakpoint makes the kernel forget. */
#include "hazard.h"
#include <signal.h>
#include <sys/wait.h>

static volatile sig_atomic_t traps;
static struct sigaction wanted;

static void handler(int signo)
{
    CHECK(signo == SIGTRAP);
    traps++;
}

static void look(void)
{
    struct sigaction found;
    CHECK(sigaction(SIGTRAP, 0, &found) == 0);
    CHECK(found.sa_handler == wanted.sa_handler && found.sa_flags & SA_RESTART);
    CHECK(sigismember(&found.sa_mask, SIGUSR1) && !sigismember(&found.sa_mask, SIGUSR2));
}

static void child(char *untouched)
{
    sigset_t only, mask;
    for (int i = 0; i < 4096; i++)
        CHECK(untouched[i] == 'x');
    CHECK(sigprocmask(SIG_BLOCK, 0, &mask) == 0 && sigismember(&mask, SIGTRAP));
    look();
    probed();
    sigemptyset(&only);
    sigaddset(&only, SIGTRAP);
    CHECK(raise(SIGTRAP) == 0 && traps == 0);
    CHECK(sigprocmask(SIG_UNBLOCK, &only, 0) == 0);
    CHECK(traps == (wanted.sa_handler == handler));
    look();
    _exit(42);
}

int main(int argc, char **argv)
{
    char room[4096];
    sigset_t only;
    wanted.sa_handler = argc > 1 && !strcmp(argv[1], "ignores") ? SIG_IGN : handler;
    wanted.sa_flags = SA_RESTART;
    sigemptyset(&wanted.sa_mask);
    sigaddset(&wanted.sa_mask, SIGUSR1);
    sigemptyset(&only);
    sigaddset(&only, SIGTRAP);
    gate("ready");
    CHECK(sigaction(SIGTRAP, &wanted, 0) == 0);
    CHECK(sigprocmask(SIG_BLOCK, &only, 0) == 0);
    memset(room, 'x', sizeof room);
    for (int i = 0; i < 10; i++) {
        int status;
        probed();
        pid_t pid = fork();
        if (pid == 0)
            child(room);
        CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    }
    gate("stopped");
    return finish();
}
