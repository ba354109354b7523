/* Passes each line on, like cat; at the line "go" it becomes the user of its argument for good. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char line[256];
    ssize_t length;
    uid_t user = argc > 1 ? (uid_t)atoi(argv[1]) : 0;

    while ((length = read(0, line, sizeof line)) > 0) {
        if (length == 3 && !memcmp(line, "go\n", 3)
            && (setresgid(user, user, user) || setresuid(user, user, user)))
            return 1;
        if (write(1, line, (size_t)length) != length)
            return 1;
    }
    return 0;
}
