/* Has memory of its own filled (userfaultfd), and whoever does so is to hear of each fork, which waits until it has.
 * "own": a thread of the process; "other": another process, which hears nothing before SIGUSR1. */
#include "hazard.h"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static int uffd;
static char *area;
static volatile sig_atomic_t told;

static void tell(int number)
{
    (void)number;
    told = 1;
}

static void *hear(void *unused)
{
    struct uffd_msg message;
    (void)unused;
    while (read(uffd, &message, sizeof message) > 0 || errno == EINTR)
        if (message.event == UFFD_EVENT_FORK)
            close(message.arg.fork.ufd);
    return 0;
}

int main(int argc, char **argv)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_FORK};
    pthread_t thread;
    uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
    CHECK(uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0);
    area = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(area, "mine");
    pid_t parent = getpid();
    if (argc > 1 && !strcmp(argv[1], "other")) {
        sigset_t all, none;
        sigfillset(&all);
        sigprocmask(SIG_BLOCK, &all, &none);
        pid_t other = fork();
        if (!other) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            signal(SIGUSR1, tell);
            sigemptyset(&none);
            while (!told && getppid() == parent)
                sigsuspend(&none);
            hear(0);
            _exit(0);
        }
        sigprocmask(SIG_SETMASK, &none, 0);
        say("other %d\n", other);
    } else {
        CHECK(pthread_create(&thread, 0, hear, 0) == 0);
    }
    struct uffdio_register range = {{(unsigned long)area, 8192}, UFFDIO_REGISTER_MODE_MISSING, 0};
    CHECK(ioctl(uffd, UFFDIO_REGISTER, &range) == 0);
    if (argc > 1 && !strcmp(argv[1], "other"))
        close(uffd);
    gate("ready");
    for (int i = 0; i < 20; i++)
        probed();
    gate("called");
    return finish();
}
