/* Static probes with arguments in all forms that a compiler leaves them in, and semaphores.
 *
 * Each round, behind a gate: says what its semaphores are, and passes its static probes. With the
 * argument `forks` a child does the same in the second round. */
#define _SDT_HAS_SEMAPHORES 1
#include <sys/sdt.h>
#include <sys/wait.h>

#include "hazard.h"

unsigned short forms_many_semaphore __attribute__((section(".probes")));
unsigned short forms_last_semaphore __attribute__((section(".probes")));
unsigned short forms_twice_semaphore __attribute__((section(".probes")));

struct pair {
    short a;
    unsigned char b[4];
};

volatile int counter = -7;
static struct pair table[4] = {{1, {1, 2, 3, 4}}, {-2, {250, 251, 252, 253}}};

__attribute__((noinline)) void many(signed char c, unsigned short s, int i, unsigned u, long l,
                                    const char *text, struct pair *p, double d, float f, int k)
{
    STAP_PROBE12(forms, many, c, s, i, u, l, text, p[k].a, p[1].b[k], d, f, counter, 17);
    if (forms_last_semaphore)
        STAP_PROBE1(forms, last, forms_last_semaphore);
    STAP_PROBE1(forms, twice, i);
    counter = counter; /* so that there are bytes between the two */
    STAP_PROBE1(forms, twice, l);
}

static void pass(const char *who)
{
    say("%s %d %d\n", who, forms_many_semaphore, forms_last_semaphore);
    many(-3, 65535, -5, 4000000000u, -(1L << 40), "text", table, 2.5, 1.5f, 1);
    calls++;
}

int main(int count, char **arguments)
{
    gate("ready");
    for (int round = 0; round < 3; round++) {
        pass("semaphores");
        if (round == 1 && count > 1 && !strcmp(arguments[1], "forks")) {
            pid_t child = fork();
            CHECK(child >= 0);
            if (!child) {
                pass("child");
                _exit(0);
            }
            int status;
            CHECK(waitpid(child, &status, 0) == child && status == 0);
        }
        gate("passed");
    }
    return finish();
}
