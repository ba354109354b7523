/* Forks once at the test's word; the child says whether it is clean, also when we are dead.
 *
 * "hides": it is not dumpable by then; "followed": the child need not be clean. */
#include "hazard.h"
#include <sys/prctl.h>

/* Code that is in no file. */
static int nameless(void)
{
    char line[512];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    while (fgets(line, sizeof line, maps))
        found += strstr(line, " r-xp 00000000 00:00 0 \n") != 0;
    fclose(maps);
    return found;
}

int main(int argc, char **argv)
{
    int followed = argc > 1 && !strcmp(argv[1], "followed");
    int hides = argc > 1 && !strcmp(argv[1], "hides");
    gate("ready");
    CHECK(prctl(PR_SET_DUMPABLE, !hides) == 0);
    pid_t child = fork();
    if (child == 0) {
        probed();
        CHECK(followed || *(volatile unsigned char *)probed == 0xf0); /* lock */
        CHECK(followed || nameless() == 0);
        CHECK(prctl(PR_GET_DUMPABLE) == !hides);
        say("child clean\n");
        _exit(0);
    }
    gate("stopped");
    return finish();
}
