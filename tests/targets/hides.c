/* Makes itself not dumpable, and forks: the children run probed code. */
#include "hazard.h"
#include <sys/prctl.h>
#include <sys/wait.h>

int main(void)
{
    gate("ready");
    probed();
    CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
    for (int i = 0; i < 20; i++) {
        int status;
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            probed();
            _exit(prctl(PR_GET_DUMPABLE) == 0 ? 3 : 4);
        }
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(status == 3 << 8);
        probed();
    }
    gate("stopped");
    return finish();
}
