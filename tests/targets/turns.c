/* turns COUNT SELF OTHER: executes OTHER, which executes SELF, COUNT times in all, a moment apart;
   then passes each line on, like cat. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct timespec moment = {0, 500 * 1000};
    int left = argc > 3 ? atoi(argv[1]) : -1;
    char line[256], number[16];
    ssize_t length;

    if (left < 0)
        return 2;
    if (left) {
        nanosleep(&moment, 0);
        snprintf(number, sizeof number, "%d", left - 1);
        execl(argv[3], argv[3], number, argv[3], argv[2], (char *)0);
        return 3;
    }
    while ((length = read(0, line, sizeof line)) > 0)
        if (write(1, line, (size_t)length) != length)
            return 4;
    return 0;
}
