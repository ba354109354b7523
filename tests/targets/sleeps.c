/* Calls what is probed, then opens a file, perhaps of a file system that does not answer. */
#include "hazard.h"
#include <fcntl.h>

int main(int argc, char **argv)
{
    gate("ready");
    for (int i = 0; i < 3; i++)
        probed();
    gate("called");
    say("opening\n");
    int fd = open(argc > 1 ? argv[1] : "", O_RDONLY);
    CHECK(fd >= 0);
    probed();
    gate("opened");
    return finish();
}
