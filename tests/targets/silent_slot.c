/* Maps a file over the words by which a library of its own calls others, and looks at neither.
 * Usage: FILE LIBRARY */
#include "hazard.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
    CHECK(argc > 2);
    char line[4096];
    unsigned long start, end, words = 0, size = 0;
    CHECK(dlopen(argv[2], RTLD_NOW));
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    while (fgets(line, sizeof line, maps)) {
        char perms[5];
        if (!strstr(line, argv[2]) || sscanf(line, "%lx-%lx %4s", &start, &end, perms) != 3)
            continue;
        if (perms[2] != 'x' && start > words) {
            words = start;
            size = end - start;
        }
    }
    fclose(maps);
    int fd = open(argv[1], O_RDONLY);
    CHECK(fd >= 0 && words);
    CHECK(mmap((void *)words, size, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) == (void *)words);
    gate("ready");
    probed();
    say("calls %ld\nOK\n", calls);
    _exit(0);
}
