/* Passes each line on, like cat. At a line "mappings" or "files" it maps more than anybody would
   wait for us to look through: a file whose path, from where it is, is as long as can be, many
   times; or many files. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, DEPTH = 14, MAPPINGS = 9000, FILES = 4200 };

static int map(int file)
{
    void *at = mmap(0, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);

    return at == MAP_FAILED;
}

static int map_often(void)
{
    char name[250];
    int file, failed = 0;

    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    for (int depth = 0; depth < DEPTH; depth++)
        if (mkdir(name, 0700) || chdir(name))
            return 3;
    file = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (file < 0 || ftruncate(file, PAGE))
        return 4;
    for (int count = 0; count < MAPPINGS && !failed; count++)
        failed = map(file);
    close(file);
    return failed;
}

static int map_files(void)
{
    int failed = 0;

    for (int count = 0; count < FILES && !failed; count++) {
        int file = memfd_create("crowd", MFD_CLOEXEC);

        failed = file < 0 || ftruncate(file, PAGE) || map(file);
        close(file);
    }
    return failed;
}

int main(void)
{
    char line[256];
    ssize_t length;

    while ((length = read(0, line, sizeof line)) > 0) {
        if (!strncmp(line, "mappings", 8) && map_often())
            return 2;
        if (!strncmp(line, "files", 5) && map_files())
            return 5;
        if (write(1, line, (size_t)length) != length)
            return 6;
    }
    return 0;
}
