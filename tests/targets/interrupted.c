/* A system call in a probed instruction that signals interrupt: restarted, or EINTR. */
#include "hazard.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/time.h>
#include <ucontext.h>

long slot_read(int fd, void *buffer, long size);
extern char slot_read_syscall[];
__asm__(".pushsection .text\n.globl slot_read,slot_read_syscall\n.type slot_read,@function\n"
        ".type slot_read_syscall,@function\n"
        "slot_read: xor %eax,%eax\nslot_read_syscall: syscall\n\tret\n"
        ".size slot_read,.-slot_read\n.popsection");

static int pipes[2];
static volatile long handled, enough;
static sigjmp_buf out;
static volatile int leaves;

static void handler(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info;
    /* Out of the call, which is to be restarted; not from before it. */
    if (leaves &&
        ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] == (greg_t)slot_read_syscall)
        siglongjmp(out, 1);
    if (++handled == enough)
        CHECK(write(pipes[1], "x", 1) == 1);
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    struct itimerval timer = {{0, 1500}, {0, 1500}}, off = {0};
    struct epoll_event event = {.events = EPOLLIN};
    volatile long reads = 0;
    long interrupted = 0, got;
    char byte;
    CHECK(pipe(pipes) == 0);
    int epoll = epoll_create1(0);
    CHECK(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &event) == 0);
    gate("ready");

    CHECK(sigaction(SIGALRM, &action, 0) == 0); /* without SA_RESTART */
    enough = 100;
    CHECK(setitimer(ITIMER_REAL, &timer, 0) == 0);
    do {
        got = slot_read(pipes[0], &byte, 1);
        reads++;
        interrupted += got == -EINTR;
        CHECK(got == 1 || got == -EINTR);
    } while (got != 1);
    CHECK(setitimer(ITIMER_REAL, &off, 0) == 0);
    CHECK(interrupted <= handled && interrupted == reads - 1);

    action.sa_flags = SA_SIGINFO | SA_RESTART;
    CHECK(sigaction(SIGALRM, &action, 0) == 0);
    for (int i = 0; i < 5; i++, reads++) {
        enough = handled + 20;
        CHECK(setitimer(ITIMER_REAL, &timer, 0) == 0);
        CHECK(slot_read(pipes[0], &byte, 1) == 1);
        CHECK(handled >= enough);
        CHECK(setitimer(ITIMER_REAL, &off, 0) == 0);
    }

    say("returned %ld\n", reads);
    gate("leaving");

    /* a restart that never comes, because the handler goes elsewhere */
    if (!sigsetjmp(out, 1)) { /* whole before the first signal can come */
        leaves = 1;
        CHECK(setitimer(ITIMER_REAL, &timer, 0) == 0);
    }
    if (reads++ < 200)
        CHECK(slot_read(pipes[0], &byte, 1) < 0);
    reads--;
    CHECK(setitimer(ITIMER_REAL, &off, 0) == 0);
    leaves = 0;

    /* signal(7): never restarted, so our stops can end it, too; nothing else may */
    enough = handled + 20;
    CHECK(setitimer(ITIMER_REAL, &timer, 0) == 0);
    do
        got = epoll_wait(epoll, &event, 1, 60000);
    while (got < 0 && errno == EINTR);
    CHECK(got == 1 && handled >= enough);
    CHECK(setitimer(ITIMER_REAL, &off, 0) == 0);
    gate("stopped");
    say("reads %ld\n", reads);
    return finish();
}
