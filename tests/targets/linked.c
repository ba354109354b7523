/* A program with a library, both probed. */
#include "hazard.h"

long plugged(long);

int main(void)
{
    gate("ready");
    for (long n = 0; n < 50; n++) {
        probed();
        CHECK(plugged(n) == n * 3 + 1);
    }
    gate("stopped");
    return finish();
}
