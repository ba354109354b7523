/* Uses SIGTRAP itself: handler, raise, int3 of its own, blocked, ignored, sent by kill. */
#include "hazard.h"
#include <signal.h>
#include <ucontext.h>

static volatile long traps, codes;
static char *volatile expected;

void own_int3(void);
void behind_int3(void);
__asm__(".pushsection .text\n.globl own_int3,behind_int3\n.type own_int3,@function\n"
        "own_int3: int3\nbehind_int3: ret\n.size own_int3,.-own_int3\n.popsection");

static void handler(int signo, siginfo_t *info, void *context)
{
    char *rip = (char *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    CHECK(signo == SIGTRAP);
    if (expected)
        CHECK(rip == expected);
    codes += info->si_code;
    traps++;
}

static void disposition(void (*wanted)(int, siginfo_t *, void *), int blocked)
{
    struct sigaction action;
    sigset_t mask;
    CHECK(sigaction(SIGTRAP, 0, &action) == 0 && sigprocmask(0, 0, &mask) == 0);
    CHECK(action.sa_sigaction == wanted);
    CHECK(sigismember(&mask, SIGTRAP) == blocked);
}

static void work(void)
{
    for (int i = 0; i < 20; i++)
        probed();
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    sigset_t only;
    sigemptyset(&only);
    sigaddset(&only, SIGTRAP);
    gate("ready");
    work();
    disposition((void *)SIG_DFL, 0);

    CHECK(sigaction(SIGTRAP, &action, 0) == 0);
    for (int i = 0; i < 10; i++) {
        CHECK(raise(SIGTRAP) == 0);
        CHECK(kill(getpid(), SIGTRAP) == 0);
        work();
    }
    CHECK(traps == 20 && codes == 10 * (SI_USER + SI_TKILL));
    expected = (char *)behind_int3;
    codes = 0;
    own_int3();
    own_int3();
    expected = 0;
    CHECK(traps == 22 && codes == 2 * SI_KERNEL);
    disposition(handler, 0);

    CHECK(sigprocmask(SIG_BLOCK, &only, 0) == 0);
    work();
    disposition(handler, 1);
    CHECK(raise(SIGTRAP) == 0);
    work();
    disposition(handler, 1);
    CHECK(traps == 22);
    CHECK(sigprocmask(SIG_UNBLOCK, &only, 0) == 0);
    CHECK(traps == 23);
    work();

    CHECK(signal(SIGTRAP, SIG_IGN) != SIG_ERR);
    work();
    disposition((void *)SIG_IGN, 0);
    CHECK(raise(SIGTRAP) == 0);
    work();
    disposition((void *)SIG_IGN, 0);
    gate("stopped");
    return finish();
}
