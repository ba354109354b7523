/* Changes its privileges and says what it has then, step by step; each step but the last executes
 * PROGRAM with the steps that are left.   privileges PROGRAM STEP… */
#include "hazard.h"
#include <grp.h>
#include <linux/securebits.h>
#include <sys/prctl.h>

enum { OTHER = 65534 };

static void tell(const char *step)
{
    char line[128];
    FILE *status = fopen("/proc/self/status", "r");
    say("%s: user %d %d, securebits %#x, keep %d, new %d\n", step, (int)getuid(), (int)geteuid(),
        prctl(PR_GET_SECUREBITS), prctl(PR_GET_KEEPCAPS), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, "Cap", 3))
            say("%s", line);
    if (status)
        fclose(status);
}

static void take(const char *step)
{
    if (!strcmp(step, "nofixup"))
        CHECK(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) == 0 && setresuid(OTHER, OTHER, OTHER) == 0);
    else if (!strcmp(step, "keep"))
        CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0 && setresuid(OTHER, OTHER, OTHER) == 0);
    else if (!strcmp(step, "noroot"))
        CHECK(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED) == 0);
    else if (!strcmp(step, "other"))
        CHECK(setgroups(0, 0) == 0 && setresgid(OTHER, OTHER, OTHER) == 0 && setresuid(OTHER, OTHER, OTHER) == 0);
    else if (!strcmp(step, "nonew"))
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    else
        CHECK(!strcmp(step, "who"));
}

int main(int count, char **arguments)
{
    CHECK(count > 2);
    if (strcmp(arguments[2], "who"))
        gate("ready");
    take(arguments[2]);
    tell(arguments[2]);
    probed();
    if (count > 3) {
        char *next[16] = {arguments[1], arguments[1]};
        CHECK(count < 16);
        for (int i = 3; i < count; i++)
            next[i - 1] = arguments[i];
        execv(arguments[1], next);
        CHECK(0);
    }
    gate("stopped");
    return finish();
}
