/* Has the path of a file in its memory, of which a system call that it is to make for somebody can
 * be.   lends FILE */
#include "hazard.h"

static char path[256];

int main(int count, char **arguments)
{
    CHECK(count == 2 && strlen(arguments[1]) < sizeof path);
    strcpy(path, arguments[1]);
    say("path %ld\n", (long)path);
    gate("ready");
    for (int i = 0; i < 3; i++)
        probed();
    gate("stopped");
    return finish();
}
