/* What every target has: lines on stdout that say how far it is, a gate on stdin, a counted
 * function to probe, and checks that end it with status 1. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* printf with nothing but one write(). */
__attribute__((format(printf, 1, 2))) static inline void say(const char *format, ...)
{
    char line[256];
    va_list values;
    va_start(values, format);
    int size = vsnprintf(line, sizeof line, format, values);
    va_end(values);
    if (write(1, line, size < (int)sizeof line ? size : (int)sizeof line - 1) != size)
        _exit(2);
}

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            say("FAILED %s:%d %s (errno %d)\n", __FILE__, __LINE__, #condition, errno);   \
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
    say("%s\n", name);
    do
        got = read(0, &byte, 1);
    while (got < 0 && errno == EINTR);
    CHECK(got == 1);
}

static inline int finish(void)
{
    say("calls %ld\nOK\n", calls);
    return 0;
}
