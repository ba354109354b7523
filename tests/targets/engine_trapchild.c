/* A handler for SIGTRAP; a child in vfork, which has handlers of its own, gives up its copy. */
#include "hazard.h"
#include <signal.h>
#include <sys/wait.h>

static volatile sig_atomic_t traps;

static void handler(int signo)
{
    CHECK(signo == SIGTRAP);
    traps++;
}

int main(void)
{
    struct sigaction action = {.sa_handler = handler}, plain = {.sa_handler = SIG_DFL}, found;
    sigset_t only;
    int status;
    sigemptyset(&only);
    sigaddset(&only, SIGTRAP);
    gate("ready");
    CHECK(sigaction(SIGTRAP, &action, 0) == 0);
    probed();
    pid_t pid = vfork();
    if (pid == 0) {
        probed();
        sigaction(SIGTRAP, &plain, 0);
        probed();
        _exit(7);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7);
    CHECK(sigprocmask(SIG_BLOCK, &only, 0) == 0);
    for (int i = 0; i < 10; i++)
        probed();
    CHECK(sigprocmask(SIG_UNBLOCK, &only, 0) == 0);
    CHECK(sigaction(SIGTRAP, 0, &found) == 0 && found.sa_handler == handler);
    CHECK(raise(SIGTRAP) == 0 && traps == 1);
    gate("stopped");
    return finish();
}
