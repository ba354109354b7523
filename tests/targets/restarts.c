/* Blocking system calls, one thread each: none may notice that we stop it. */
#include "hazard.h"
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

static int pipes[8][2], listener;
static int word, timed_word;
static pthread_barrier_t begin;
static pid_t child;

long slot_read(int fd, void *buffer, long size); /* read by an instruction that can be probed */
__asm__(".pushsection .text\n.globl slot_read,slot_read_syscall\n.type slot_read,@function\n"
        ".type slot_read_syscall,@function\n"
        "slot_read: xor %eax,%eax\nslot_read_syscall: syscall\n\tret\n"
        ".size slot_read,.-slot_read\n.popsection");

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void do_read(void)
{
    char byte;
    CHECK(read(pipes[0][0], &byte, 1) == 1);
}

static void do_slot_read(void)
{
    char byte;
    CHECK(slot_read(pipes[1][0], &byte, 1) == 1);
}

static void do_poll(void)
{
    struct pollfd in = {.fd = pipes[2][0], .events = POLLIN};
    CHECK(poll(&in, 1, -1) == 1);
}

static void do_poll_timeout(void)
{
    struct pollfd in = {.fd = pipes[3][0], .events = POLLIN};
    CHECK(poll(&in, 1, 60000) == 1);
}

static void do_select(void)
{
    fd_set set;
    struct timeval limit = {60, 0};
    FD_ZERO(&set);
    FD_SET(pipes[4][0], &set);
    CHECK(select(pipes[4][0] + 1, &set, 0, 0, &limit) == 1);
}

static void do_futex(void)
{
    CHECK(syscall(SYS_futex, &word, FUTEX_WAIT, 0, 0, 0, 0) == 0);
}

static void do_futex_timeout(void)
{
    struct timespec limit = {60, 0};
    CHECK(syscall(SYS_futex, &timed_word, FUTEX_WAIT, 0, &limit, 0, 0) == 0);
}

static void do_nanosleep(void)
{
    struct timespec time = {0, 900000000};
    double start = seconds();
    CHECK(nanosleep(&time, 0) == 0);
    CHECK(seconds() - start >= 0.9);
}

static void do_clock_nanosleep(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_sec += 1;
    CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, 0) == 0);
}

static void do_accept(void)
{
    CHECK(accept(listener, 0, 0) >= 0);
}

static void do_recv(void)
{
    char byte;
    CHECK(recv(pipes[5][0], &byte, 1, 0) == 1);
}

static void do_wait(void)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void do_lock(void)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    CHECK(fcntl(pipes[6][0], F_SETLKW, &lock) == 0);
}

static void do_pause(void)
{
    sigset_t set;
    int signo;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK(sigwait(&set, &signo) == 0 && signo == SIGUSR1); /* glibc repeats on EINTR */
}

static void (*const kinds[])(void) = {
    do_read,   do_slot_read,     do_poll,      do_poll_timeout,    do_select, do_futex,
    do_futex_timeout, do_nanosleep, do_clock_nanosleep, do_accept, do_recv,  do_wait,
    do_lock,   do_pause,
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void *run(void *kind)
{
    pthread_barrier_wait(&begin);
    kinds[(long)kind]();
    say("done %ld\n", (long)kind);
    return 0;
}

static void set_up(void)
{
    char path[] = "/tmp/restartsXXXXXX";
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, 0) == 0);
    for (int i = 0; i < 5; i++)
        CHECK(pipe(pipes[i]) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pipes[5]) == 0);
    CHECK(pipe(pipes[7]) == 0);
    CHECK((pipes[6][0] = mkstemp(path)) >= 0);
    CHECK((listener = socket(AF_UNIX, SOCK_STREAM, 0)) >= 0);
    struct sockaddr address = {.sa_family = AF_UNIX};
    CHECK(bind(listener, &address, 2) == 0 && listen(listener, 1) == 0); /* autobind */
    if ((child = fork()) == 0) { /* holds the lock until it is told to end */
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        char byte;
        close(pipes[7][1]); /* so that it ends with its parent */
        CHECK(fcntl(pipes[6][0], F_SETLKW, &lock) == 0);
        CHECK(write(pipes[4][1], "x", 1) == 1);
        CHECK(read(pipes[7][0], &byte, 1) == 1);
        _exit(0);
    }
    char byte;
    CHECK(read(pipes[4][0], &byte, 1) == 1);
    CHECK(unlink(path) == 0);
}

int main(void)
{
    pthread_t threads[KINDS];
    struct sockaddr_un_any { sa_family_t family; char path[108]; } name;
    socklen_t size = sizeof name;
    set_up();
    pthread_barrier_init(&begin, 0, KINDS + 1);
    gate("ready");
    for (long i = 0; i < KINDS; i++)
        CHECK(pthread_create(&threads[i], 0, run, (void *)i) == 0);
    pthread_barrier_wait(&begin);
    gate("blocked");
    for (int i = 0; i < 5; i++)
        CHECK(write(pipes[i][1], "x", 1) == 1);
    CHECK(send(pipes[5][1], "x", 1, 0) == 1);
    /* Unchanged: a wait that was begun again, because its thread was stopped, is one again. */
    while (syscall(SYS_futex, &word, FUTEX_WAKE, 9, 0, 0, 0) != 1)
        ;
    while (syscall(SYS_futex, &timed_word, FUTEX_WAKE, 9, 0, 0, 0) != 1)
        ;
    CHECK(getsockname(listener, (struct sockaddr *)&name, &size) == 0);
    int client = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(connect(client, (struct sockaddr *)&name, size) == 0);
    CHECK(write(pipes[7][1], "x", 1) == 1);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    for (long i = 0; i < KINDS; i++)
        CHECK(pthread_join(threads[i], 0) == 0);
    gate("stopped");
    return finish();
}
