/* Forks once at the test's word; the child says whether it is clean, also when we are dead. */
#include "hazard.h"

int main(void)
{
    gate("ready");
    pid_t child = fork();
    if (child == 0) {
        probed();
        CHECK(*(volatile unsigned char *)probed == 0xf0); /* lock */
        say("child clean\n");
        _exit(0);
    }
    gate("stopped");
    return finish();
}
