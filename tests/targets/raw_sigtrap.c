/* Sets SIGTRAP's disposition by a system call of its own, which no function of libc sees:
 * raw_sigtrap HOW   ignored: and is sent one, which changes nothing; child: and so is a child of it;
 * default: nothing is set, and a SIGTRAP ends it; untouched: nothing is set. What is set is there
 * after the last gate. */
#include "hazard.h"
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

struct action {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    unsigned long mask;
};

static struct action now(void)
{
    struct action found;
    CHECK(syscall(SYS_rt_sigaction, SIGTRAP, 0, &found, 8) == 0);
    return found;
}

static void work(void)
{
    for (int i = 0; i < 20; i++)
        probed();
}

int main(int count, char **arguments)
{
    struct action ignore = {.handler = SIG_IGN, .mask = 1ul << (SIGUSR2 - 1)};
    struct sigaction seen;
    int status;
    CHECK(count == 2);
    const char *how = arguments[1];
    struct action before = now();
    gate("ready");
    work();
    if (strcmp(how, "default") && strcmp(how, "untouched"))
        CHECK(syscall(SYS_rt_sigaction, SIGTRAP, &ignore, 0, 8) == 0);
    work();
    if (!strcmp(how, "ignored") || !strcmp(how, "default")) {
        CHECK(kill(getpid(), SIGTRAP) == 0);
        work();
        CHECK(raise(SIGTRAP) == 0);
        work();
    }
    if (!strcmp(how, "child")) {
        pid_t child = fork();
        if (child == 0)
            _exit(raise(SIGTRAP) || now().handler != SIG_IGN || now().mask != ignore.mask);
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        child = fork();
        if (child == 0)
            _exit(sigaction(SIGTRAP, 0, &seen) || seen.sa_handler != SIG_IGN);
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    gate("stopped");
    struct action after = now();
    if (!strcmp(how, "untouched"))
        CHECK(memcmp(&before, &after, sizeof before) == 0);
    else
        CHECK(after.handler == SIG_IGN && after.mask == ignore.mask);
    return finish();
}
