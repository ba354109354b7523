/* Unwinding through probed functions: exceptions, cancellation, backtraces, also from a handler. */
#include "hazard.h"
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdexcept>
#include <string>
#include <sys/time.h>

static volatile long destroyed, cleaned, signals, broken;
static int pipes[2];

struct Guard {
    ~Guard() { destroyed = destroyed + 1; }
};

extern "C" __attribute__((noinline)) int thrower(volatile int depth)
{
    Guard guard;
    if (depth == 0)
        throw std::runtime_error("thrown");
    return thrower(depth - 1) + 1;
}

extern "C" __attribute__((noinline)) int catcher(int depth)
{
    try {
        return thrower(depth);
    } catch (const std::runtime_error &error) {
        CHECK(std::string(error.what()) == "thrown");
        return depth + 1;
    }
}

static void clean(void *) { cleaned = cleaned + 1; }

extern "C" __attribute__((noinline)) void *cancelled(void *)
{
    char byte;
    Guard guard;
    pthread_cleanup_push(clean, nullptr);
    CHECK(write(pipes[1], "x", 1) == 1);
    for (;;)
        CHECK(read(0, &byte, 0) == 0 && pause() < 0);
    pthread_cleanup_pop(0);
    return nullptr;
}

extern "C" __attribute__((noinline)) int inner(void **frames)
{
    int count = backtrace(frames, 16);
    __asm__ volatile("" ::: "memory");
    return count;
}

extern "C" __attribute__((noinline)) int outer(void **frames)
{
    int count = inner(frames);
    __asm__ volatile("" ::: "memory");
    return count;
}

static char *main_begin, *main_end;

static void on_timer(int)
{
    void *frames[32];
    int found = 0, count = backtrace(frames, 32);
    for (int i = 0; i < count; i++)
        found += (char *)frames[i] > main_begin && (char *)frames[i] < main_end;
    signals = signals + 1;
    broken = broken + (found != 1);
}

static void all(void **frames, int *count)
{
    pthread_t thread;
    void *result;
    char byte;
    destroyed = cleaned = 0;
    for (int i = 0; i < 10; i++)
        CHECK(catcher(i) == i + 1);
    CHECK(destroyed == 55);
    for (int i = 0; i < 5; i++) {
        CHECK(pthread_create(&thread, nullptr, cancelled, nullptr) == 0);
        CHECK(read(pipes[0], &byte, 1) == 1);
        CHECK(pthread_cancel(thread) == 0 && pthread_join(thread, &result) == 0);
        CHECK(result == PTHREAD_CANCELED);
    }
    CHECK(cleaned == 5 && destroyed == 60);
    *count = outer(frames);
}

extern "C" int main_loop()
{
    void *before[16], *after[16];
    int counts[2];
    CHECK(pipe(pipes) == 0);
    for (int round = 0; round < 2; round++) { /* one call of all(), so that frames are the same */
        all(round ? after : before, &counts[round]);
        if (!round)
            gate("ready");
    }
    CHECK(counts[0] == counts[1] && counts[0] >= 4);
    CHECK(!memcmp(before, after, counts[0] * sizeof *before));
    struct itimerval timer = {{0, 900}, {0, 900}}, off = {};
    signal(SIGALRM, on_timer);
    CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0);
    while (signals < 300)
        probed();
    CHECK(setitimer(ITIMER_REAL, &off, nullptr) == 0);
    CHECK(broken == 0);
    gate("stopped");
    return finish();
}

__asm__(".globl call_main_loop,call_main_end\n.pushsection .text\n"
        ".type call_main_loop,@function\ncall_main_loop: .cfi_startproc\n push %rbx\n"
        ".cfi_adjust_cfa_offset 8\n call main_loop\n pop %rbx\n.cfi_adjust_cfa_offset -8\n ret\n"
        ".cfi_endproc\ncall_main_end: nop\n.size call_main_loop,.-call_main_loop\n.popsection");
extern "C" int call_main_loop();
extern "C" char call_main_end;

int main()
{
    main_begin = (char *)call_main_loop;
    main_end = &call_main_end;
    return call_main_loop();
}
