/* Functions that are left in all ways there are; the first argument says in which. */
#include "hazard.h"
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>

#define ALONE __attribute__((noipa))
/* What was called before this is no tail call, nor made a loop. */
#define HERE(value) __asm__ volatile("" : "+r"(value))

/* Integer arguments in registers and on the stack, and a floating one among them. */
ALONE long many(long a, long b, double x, long c, long d, long e, long f, long g, float y)
{
    return a + b + c + d + e + f + g + (long)(x + (double)y);
}

ALONE double half(double x) { return x / 2; }

ALONE long factorial(long n)
{
    long below = n < 2 ? 1 : factorial(n - 1);
    HERE(below);
    return below * n;
}

/* Each leaves its frame to the other one. */
ALONE long odd(long n);
ALONE long even(long n) { return n ? odd(n - 1) : 1; }
ALONE long odd(long n) { return n ? even(n - 1) : 0; }

ALONE long leaf(long n) { return n + 1; }
ALONE long handing(long n) { return leaf(n * 2); }

ALONE long exits(long n)
{
    if (n == 0)
        return leaf(10) + 1;
    if (n == 1)
        return -1;
    switch (n) {
    case 2: return 20;
    case 3: return leaf(30);
    case 4: return leaf(40) * 2;
    default: return n;
    }
}

static jmp_buf back;
ALONE long jumper(long depth)
{
    if (!depth)
        longjmp(back, 1);
    long below = depth > 0 ? jumper(depth - 1) : 6;
    HERE(below);
    return below + 1;
}

static void jumps(void)
{
    volatile long rounds, landed = 0;
    for (rounds = 0; rounds < 10; rounds++) {
        if (setjmp(back))
            landed = landed + 1;
        else
            jumper(3);
    }
    CHECK(landed == 10);
    for (rounds = 0; rounds < 5; rounds++)
        CHECK(jumper(-1) == 7);
}

static void calls_many(void)
{
    for (long i = 0; i < 5; i++) {
        CHECK(many(i, 1, 0.5, 2, 3, 4, 5, 6, 1.5F) == i + 23);
        CHECK(half((double)i) == (double)i / 2);
    }
    CHECK(factorial(6) == 720);
}

static void tails(void)
{
    CHECK(even(10) == 1 && odd(7) == 1 && even(3) == 0);
    for (long i = 0; i < 4; i++)
        CHECK(handing(i) == 2 * i + 1);
    CHECK(leaf(0) == 1);
    for (long i = 0; i < 7; i++)
        exits(i);
}

/* -- threads ---------------------------------------------------------------- */

static int pipes[2];

ALONE long leaves(long how)
{
    char byte;
    if (how == 1)
        pthread_exit(NULL);
    if (how == 2)
        syscall(SYS_exit, 0);
    if (how == 3) {
        CHECK(write(pipes[1], "x", 1) == 1);
        for (;;)
            pause();
    }
    return read(pipes[0], &byte, how ? 1 : 0);
}

ALONE long passes(long how) { return leaves(how) + 1; }

static void *run(void *how)
{
    return (void *)passes((long)how);
}

static void threads(void)
{
    pthread_t thread;
    char byte;
    CHECK(!pipe(pipes));
    for (int round = 0; round < 5; round++)
        for (long how = 0; how < 4; how++) {
            CHECK(!pthread_create(&thread, NULL, run, (void *)how));
            if (how == 3) {
                CHECK(read(pipes[0], &byte, 1) == 1);
                CHECK(!pthread_cancel(thread));
            }
            CHECK(!pthread_join(thread, NULL));
        }
}

/* Many threads in the same function at once. */
static pthread_barrier_t all;
ALONE long together(long number)
{
    pthread_barrier_wait(&all);
    return number * 3;
}

static void *join_in(void *number)
{
    for (int round = 0; round < 20; round++)
        CHECK(together((long)number) == (long)number * 3);
    return NULL;
}

static void crowd(void)
{
    pthread_t thread[8];
    CHECK(!pthread_barrier_init(&all, NULL, 8));
    for (long i = 0; i < 8; i++)
        CHECK(!pthread_create(&thread[i], NULL, join_in, (void *)i));
    for (long i = 0; i < 8; i++)
        CHECK(!pthread_join(thread[i], NULL));
}

/* Threads that are in and out of it all the time, one of them by a jump. */
static volatile int over;
ALONE long deep(long depth)
{
    long below = depth > 0 ? deep(depth - 1) : 0;
    HERE(below);
    return below + 1;
}

ALONE long flees(jmp_buf where)
{
    if (!over)
        longjmp(where, 1);
    return 3;
}

static void *hammer(void *unused)
{
    while (!over)
        CHECK(deep(5) == 6 && handing(4) == 9);
    return unused;
}

static void *hammer_and_flee(void *unused)
{
    jmp_buf where;
    while (!over)
        if (!setjmp(where))
            flees(where);
    return unused;
}

static void hammers(void)
{
    pthread_t thread[4];
    for (int i = 0; i < 4; i++)
        CHECK(!pthread_create(&thread[i], NULL, i ? hammer : hammer_and_flee, NULL));
    gate("hammering");
    over = 1;
    for (int i = 0; i < 4; i++)
        CHECK(!pthread_join(thread[i], NULL));
}

/* -- stacks that are switched ----------------------------------------------- */

static ucontext_t main_context, contexts[3];
static char stacks[3][65536];

ALONE long yields(long number)
{
    for (int i = 0; i < 4; i++)
        swapcontext(&contexts[number], &main_context);
    return number + 100;
}

static void coroutine(int number)
{
    for (int round = 0; round < 3; round++)
        CHECK(yields(number) == number + 100);
    leaf(number);
}

ALONE long resumes(long number)
{
    CHECK(!swapcontext(&main_context, &contexts[number]));
    return number;
}

static void coroutines(void)
{
    static int i, round;
    for (i = 0; i < 3; i++) {
        CHECK(!getcontext(&contexts[i]));
        contexts[i].uc_stack.ss_sp = stacks[i];
        contexts[i].uc_stack.ss_size = sizeof stacks[i];
        contexts[i].uc_link = &main_context;
        makecontext(&contexts[i], (void (*)(void))coroutine, 1, i);
    }
    for (round = 0; round < 13; round++)
        for (i = 0; i < 3; i++)
            CHECK(resumes(i) == i);
    leaf(1);
}

/* -- signals ---------------------------------------------------------------- */

static sigjmp_buf out;
static volatile long handled;

ALONE long interrupted(long depth)
{
    if (depth)
        raise(depth == 1 ? SIGUSR1 : SIGUSR2);
    return depth + 50;
}

static void on_signal(int number)
{
    (void)number;
    handled = handled + 1;
    CHECK(interrupted(0) == 50);
}

static void on_leave(int number)
{
    (void)number;
    interrupted(0);
    siglongjmp(out, 1);
}

static void signals(void)
{
    static char other[65536];
    stack_t stack = {.ss_sp = other, .ss_size = sizeof other};
    struct sigaction action = {.sa_handler = on_signal};
    volatile long left = 0;
    CHECK(!sigaction(SIGUSR1, &action, NULL));
    CHECK(!sigaltstack(&stack, NULL));
    action.sa_flags = SA_ONSTACK;
    CHECK(!sigaction(SIGUSR2, &action, NULL));
    for (int i = 0; i < 5; i++)
        CHECK(interrupted(1) == 51 && interrupted(2) == 52);
    action.sa_handler = on_leave;
    CHECK(!sigaction(SIGUSR1, &action, NULL) && !sigaction(SIGUSR2, &action, NULL));
    for (volatile int i = 0; i < 6; i++) {
        if (sigsetjmp(out, 1))
            left = left + 1;
        else
            interrupted(1 + i % 2);
    }
    CHECK(handled == 10 && left == 6);
}

/* -- processes -------------------------------------------------------------- */

ALONE long forks(void)
{
    long child = fork();
    leaf(child);
    return child;
}

ALONE long vforks(void)
{
    int status;
    long child = vfork();
    if (!child) {
        leaf(5);
        _exit(3);
    }
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 3);
    return child;
}

ALONE long vforks_and_executes(void)
{
    char *const arguments[] = {(char *)"true", NULL};
    int status;
    long child = vfork();
    if (!child) {
        leaf(execv("/bin/true", arguments));
        _exit(3);
    }
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 0);
    return child;
}

static void processes(void)
{
    int status;
    for (int i = 0; i < 3; i++) {
        long child = forks();
        if (!child)
            _exit(leaf(6) - 7);
        CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 0);
    }
    for (int i = 0; i < 3; i++)
        CHECK(vforks() > 0 && vforks_and_executes() > 0);
}

ALONE long executes(char *program)
{
    char *const arguments[] = {program, (char *)"leafs", NULL};
    return execv(program, arguments);
}

ALONE long ends(long status)
{
    if (status >= 0) {
        say("calls %ld\nOK\n", calls);
        exit(status);
    }
    return status;
}

/* -- while the probe goes in or out ------------------------------------------ */

ALONE long waits(const char *name)
{
    gate(name);
    return leaf(1);
}

static void leafs(void)
{
    for (long i = 0; i < 10; i++)
        CHECK(leaf(i) == i + 1);
}

int main(int count, char **arguments)
{
    const char *how = count > 1 ? arguments[1] : "many";
    gate("ready");
    if (!strcmp(how, "many"))
        calls_many();
    else if (!strcmp(how, "tails"))
        tails();
    else if (!strcmp(how, "jumps"))
        jumps();
    else if (!strcmp(how, "threads"))
        threads();
    else if (!strcmp(how, "crowd"))
        crowd();
    else if (!strcmp(how, "hammers"))
        hammers();
    else if (!strcmp(how, "coroutines"))
        coroutines();
    else if (!strcmp(how, "signals"))
        signals();
    else if (!strcmp(how, "processes"))
        processes();
    else if (!strcmp(how, "leafs"))
        leafs();
    else if (!strcmp(how, "executes"))
        executes(arguments[0]);
    else if (!strcmp(how, "ends"))
        ends(ends(-1) + 1);
    else {
        CHECK(waits("inside") == 2);
        CHECK(waits("again") == 2);
        CHECK(waits("third") == 2);
    }
    gate("stopped");
    return finish();
}
