/* reborn ROUNDS PROGRAM: executes PROGRAM in a child and kills it after a moment; each of the next
   children has the number of the first. The last one has our input and output, and we end as it
   does. To choose a number is a right of root's. */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int rounds = argc > 2 ? atoi(argv[1]) : 0, status = 0, silent[2];
    struct timespec moment = {0, 1500 * 1000};
    pid_t child = 0;

    if (pipe(silent))
        return 3;
    for (int left = rounds; left > 0; left--) {
        struct clone_args how = {.exit_signal = SIGCHLD};

        how.set_tid = child ? (__u64)&child : 0;
        how.set_tid_size = child ? 1 : 0;
        child = (pid_t)syscall(SYS_clone3, &how, sizeof how);
        if (child < 0)
            return 4;
        if (!child) {
            if (left > 1)
                dup2(silent[0], 0);
            close(silent[0]);
            close(silent[1]);
            execl(argv[2], argv[2], (char *)0);
            _exit(5);
        }
        if (left > 1) {
            nanosleep(&moment, 0);
            kill(child, SIGKILL);
        }
        if (waitpid(child, &status, 0) != child)
            return 6;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 7;
}
