/* What every target has: lines on stdout that say how far it is, a gate on stdin, a counted
 * function to probe, and checks that end it with status 1. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            dprintf(1, "FAILED %s:%d %s (errno %d)\n", __FILE__, __LINE__, #condition,    \
                    errno);                                                               \
            _exit(1);                                                                     \
        }                                                                                 \
    } while (0)

#ifdef __cplusplus
extern "C" {
#endif
long calls; /* how often probed() ran, by any thread */

/* The instruction that counts is the one that is probed at probed+0. */
void probed(void);
__asm__(".pushsection .text\n.globl probed\n.type probed,@function\n"
        "probed: .cfi_startproc\n\tlock incq calls(%rip)\n\tret\n.cfi_endproc\n.size probed,.-probed\n.popsection");
#ifdef __cplusplus
}
#endif

/* Say where we are, and wait until the test lets us go on. */
static inline void gate(const char *name)
{
    char byte;
    long got;
    dprintf(1, "%s\n", name);
    do
        got = read(0, &byte, 1);
    while (got < 0 && errno == EINTR);
    CHECK(got == 1);
}

static inline int finish(void)
{
    dprintf(1, "calls %ld\nOK\n", calls);
    return 0;
}
