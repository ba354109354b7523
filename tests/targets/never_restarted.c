/* Calls that the kernel never restarts (signal(7)), one thread each: none may notice that we stop
 * it, nor a signal that we ignore.   never_restarted forever|timed
 * forever: they wait until the test lets them; timed: a second, however often they are stopped. */
#include "hazard.h"
#include <linux/aio_abi.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>

enum { PAIRS = 3, EPOLL_PWAIT2 = 441 };

static int timed, semaphores, epoll, listener;
static int pairs[PAIRS][2];
static aio_context_t aio;
static struct timespec limit = {60, 0};
static pthread_barrier_t begin;
static sigset_t wanted;

static long in_epoll_wait(void)
{
    struct epoll_event event;
    return epoll_wait(epoll, &event, 1, timed ? 1000 : -1);
}

static long in_epoll_pwait(void)
{
    struct epoll_event event;
    return epoll_pwait(epoll, &event, 1, timed ? 1000 : 60000, &wanted);
}

static long in_epoll_pwait2(void)
{
    struct epoll_event event;
    return syscall(EPOLL_PWAIT2, epoll, &event, 1, &limit, 0, 8);
}

static long in_semop(void)
{
    struct sembuf down = {0, -1, 0};
    return semop(semaphores, &down, 1) == 0;
}

static long in_semtimedop(void)
{
    struct sembuf down = {0, -1, 0};
    return semtimedop(semaphores, &down, 1, &limit) == 0 ? 1 : errno == EAGAIN ? 0 : -1;
}

static long in_sigtimedwait(void)
{
    int got = sigtimedwait(&wanted, 0, &limit);
    return got == SIGUSR1 ? 1 : errno == EAGAIN ? 0 : -1;
}

static long in_io_getevents(void)
{
    struct io_event event;
    return syscall(SYS_io_getevents, aio, 1, 1, &event, &limit);
}

static long in_recv(void)
{
    char byte;
    long got = recv(pairs[0][0], &byte, 1, 0);
    return got == 1 ? 1 : errno == EAGAIN ? 0 : -1;
}

static long in_read(void)
{
    char byte;
    long got = read(pairs[1][0], &byte, 1);
    return got == 1 ? 1 : errno == EAGAIN ? 0 : -1;
}

static long in_accept(void)
{
    return accept(listener, 0, 0) >= 0;
}

static struct {
    const char *name;
    long (*call)(void);
    int is_timed;
} const kinds[] = {
    {"epoll_wait", in_epoll_wait, 1},
    {"epoll_pwait", in_epoll_pwait, 1},
    {"epoll_pwait2", in_epoll_pwait2, 1},
    {"semtimedop", in_semtimedop, 1},
    {"sigtimedwait", in_sigtimedwait, 1},
    {"io_getevents", in_io_getevents, 1},
    {"semop", in_semop, 0},
    {"recv", in_recv, 0},
    {"read", in_read, 0},
    {"accept", in_accept, 0},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void *run(void *kind)
{
    long k = (long)kind;
    pthread_barrier_wait(&begin);
    double start = seconds();
    long got = kinds[k].call();
    if (got != !timed || (timed && seconds() - start < 1.0))
        say("FAILED %s %ld after %g (errno %d)\n", kinds[k].name, got, seconds() - start, errno);
    say("done %ld\n", k);
    return 0;
}

static void prepare(void)
{
    struct timeval minute = {60, 0};
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    struct epoll_event event = {.events = EPOLLIN};
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &wanted, 0) == 0);
    CHECK(signal(SIGUSR2, SIG_IGN) != SIG_ERR);
    CHECK((semaphores = semget(IPC_PRIVATE, 1, 0600)) >= 0);
    for (int i = 0; i < PAIRS; i++)
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[i]) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(setsockopt(pairs[i][0], SOL_SOCKET, SO_RCVTIMEO, &minute, sizeof minute) == 0);
    CHECK((epoll = epoll_create1(0)) >= 0);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, pairs[2][0], &event) == 0);
    CHECK((listener = socket(AF_UNIX, SOCK_STREAM, 0)) >= 0);
    CHECK(bind(listener, (void *)&name, sizeof name.sun_family) == 0 && listen(listener, 1) == 0);
    CHECK(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &minute, sizeof minute) == 0);
    CHECK(syscall(SYS_io_setup, 4, &aio) == 0);
}

/* What all wait for happens. */
static void let(void)
{
    struct sembuf up = {0, 2, 0};
    struct sockaddr_un name;
    socklen_t size = sizeof name;
    struct iocb request = {.aio_fildes = pairs[2][1], .aio_lio_opcode = IOCB_CMD_PWRITE,
                           .aio_buf = (unsigned long)"x", .aio_nbytes = 1};
    struct iocb *requests[] = {&request};
    CHECK(semop(semaphores, &up, 1) == 0);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    CHECK(write(pairs[0][1], "x", 1) == 1 && write(pairs[1][1], "x", 1) == 1);
    CHECK(syscall(SYS_io_submit, aio, 1, requests) == 1);
    CHECK(getsockname(listener, (void *)&name, &size) == 0);
    CHECK(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&name, size) == 0);
}

int main(int count, char **arguments)
{
    pthread_t threads[KINDS];
    CHECK(count == 2);
    timed = !strcmp(arguments[1], "timed");
    if (timed)
        limit.tv_sec = 1;
    prepare();
    int number = 0;
    for (int i = 0; i < KINDS; i++)
        number += !timed || kinds[i].is_timed;
    CHECK(pthread_barrier_init(&begin, 0, number + 1) == 0);
    gate("ready");
    for (long i = 0; i < KINDS; i++)
        if (!timed || kinds[i].is_timed)
            CHECK(pthread_create(&threads[i], 0, run, (void *)i) == 0);
    say("waiting %d\n", number);
    pthread_barrier_wait(&begin);
    if (!timed) {
        gate("begun");
        let();
    }
    for (int i = 0; i < KINDS; i++)
        if (!timed || kinds[i].is_timed)
            CHECK(pthread_join(threads[i], 0) == 0);
    CHECK(semctl(semaphores, 0, IPC_RMID) == 0);
    probed();
    gate("stopped");
    return finish();
}
