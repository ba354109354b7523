/* Memory that the target itself fills, page by page, as it is used (userfaultfd): the thread that does so
 * calls what is probed first. The argument says what memory: "anonymous", "shared" (memfd), or "protected",
 * which is there and asks before it is written to. */
#include "hazard.h"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define PAGES 8
static int uffd;
static char *area;
static int protected;

__attribute__((noinline, noclone)) void looked_at(char *p) { __asm__ volatile("" ::"r"(p) : "memory"); }

static void *fill(void *unused)
{
    static char page[4096] __attribute__((aligned(4096))) = "filled";
    struct uffd_msg message;
    (void)unused;
    while (read(uffd, &message, sizeof message) == sizeof message) {
        unsigned long at = message.arg.pagefault.address & ~4095ul;
        probed();
        if (protected) {
            struct uffdio_writeprotect open = {{at, 4096}, 0};
            CHECK(ioctl(uffd, UFFDIO_WRITEPROTECT, &open) == 0);
        } else {
            struct uffdio_copy copy = {at, (unsigned long)page, 4096, 0, 0};
            CHECK(ioctl(uffd, UFFDIO_COPY, &copy) == 0);
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "";
    struct uffdio_api api = {.api = UFFD_API};
    pthread_t thread;
    protected = !strcmp(how, "protected");
    uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
    if (uffd < 0 && errno == EPERM)
        return 77;
    CHECK(ioctl(uffd, UFFDIO_API, &api) == 0);
    if (!strcmp(how, "shared")) {
        int fd = memfd_create("filled", 0);
        CHECK(ftruncate(fd, 4096 * PAGES) == 0);
        area = mmap(0, 4096 * PAGES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    } else {
        area = mmap(0, 4096 * PAGES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    CHECK(area != MAP_FAILED);
    if (protected)
        memset(area, 1, 4096 * PAGES);
    struct uffdio_register range = {
        .range = {(unsigned long)area, 4096 * PAGES},
        .mode = protected ? UFFDIO_REGISTER_MODE_WP : UFFDIO_REGISTER_MODE_MISSING,
    };
    CHECK(ioctl(uffd, UFFDIO_REGISTER, &range) == 0);
    struct uffdio_writeprotect close = {range.range, UFFDIO_WRITEPROTECT_MODE_WP};
    if (protected)
        CHECK(ioctl(uffd, UFFDIO_WRITEPROTECT, &close) == 0);
    CHECK(pthread_create(&thread, 0, fill, 0) == 0);
    gate("ready");
    for (int i = 0; i < PAGES; i++)
        looked_at(area + 4096 * i);
    gate("looked");
    for (int i = 0; i < PAGES; i++) {
        if (protected)
            CHECK(++area[4096 * i] == 2);
        else
            CHECK(!strcmp(area + 4096 * i, "filled"));
        looked_at(area + 4096 * i);
    }
    gate("filled");
    return finish();
}
