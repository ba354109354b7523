/* Maps a page of a file, without looking at it, and calls looked_at() with its address. */
#include "hazard.h"
#include <fcntl.h>
#include <sys/mman.h>

__attribute__((noinline, noclone)) void looked_at(char *p) { __asm__ volatile("" ::"r"(p) : "memory"); }

int main(int argc, char **argv)
{
    int fd = open(argc > 1 ? argv[1] : "", O_RDONLY);
    char *page = mmap(0, 8192, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(page != MAP_FAILED);
    CHECK(madvise(page, 8192, MADV_RANDOM) == 0);
    gate("ready");
    for (int i = 0; i < 100; i++)
        looked_at(page + 4096);
    gate("looked");
    probed();
    return finish();
}
