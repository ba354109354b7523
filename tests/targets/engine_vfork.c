/* A parent in vfork sleeps as long as its child waits at a gate. */
#include "hazard.h"
#include <sys/wait.h>

int main(void)
{
    int status;
    gate("ready");
    pid_t pid = vfork();
    if (pid == 0) {
        gate("child");
        probed();
        _exit(7);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7);
    for (int i = 0; i < 5; i++)
        probed();
    gate("stopped");
    return finish();
}
