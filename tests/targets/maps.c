/* Loads a library as its own loader: maps it whole, in the ways that the arguments say, and calls
 * its function through each mapping.   maps OFFSET MODE:FILE…
 * private, shared, writable (shared, too), late (shared, made executable later), memfd (a shared
 * copy of the file), patched (private; its first instruction is overwritten with an equal one). */
#include "hazard.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { MOST = 8 };

static unsigned char *map_file(const char *mode, const char *path, long offset)
{
    struct stat found;
    int shares = strcmp(mode, "private") && strcmp(mode, "patched");
    int writes = !strcmp(mode, "writable") || !strcmp(mode, "patched");
    int late = !strcmp(mode, "late");
    int file = open(path, shares && writes ? O_RDWR : O_RDONLY);
    CHECK(file >= 0 && fstat(file, &found) == 0);
    if (!strcmp(mode, "memfd")) {
        int copy = memfd_create("plugin", 0);
        CHECK(copy >= 0 && ftruncate(copy, found.st_size) == 0);
        char *from = mmap(0, found.st_size, PROT_READ, MAP_PRIVATE, file, 0);
        CHECK(from != MAP_FAILED && write(copy, from, found.st_size) == found.st_size);
        close(file);
        file = copy;
    }
    unsigned char *start =
        mmap(0, found.st_size, PROT_READ | (late ? 0 : PROT_EXEC) | (writes ? PROT_WRITE : 0),
             shares ? MAP_SHARED : MAP_PRIVATE, file, 0);
    CHECK(start != MAP_FAILED);
    close(file);
    if (late)
        CHECK(mprotect(start, found.st_size, PROT_READ | PROT_EXEC) == 0);
    if (!strcmp(mode, "patched")) {
        /* lea 1(%rdi,%rdi,2),%rax with another, longer encoding of the rest: nop; nop; ret */
        static const unsigned char code[] = {0x48, 0x8d, 0x04, 0x7f, 0x48, 0xff, 0xc0, 0xc3};
        memcpy(start + offset, code, sizeof code);
    }
    return start + offset;
}

int main(int count, char **arguments)
{
    long (*plugged[MOST])(long);
    CHECK(count > 2 && count - 2 <= MOST);
    for (int i = 2; i < count; i++) {
        char *mode = strtok(strdup(arguments[i]), ":");
        long offset = strtol(arguments[1], 0, 0);
        plugged[i - 2] = (long (*)(long))map_file(mode, strtok(0, ":"), offset);
    }
    gate("ready");
    for (long n = 0; n < 50; n++)
        for (int i = 0; i < count - 2; i++)
            CHECK(plugged[i](n) == n * 3 + 1);
    gate("stopped");
    return finish();
}
