/* Calls a function that has data among its instructions. */
#include "hazard.h"

long dispatch(long);

int main(void)
{
    gate("ready");
    for (long n = 0; n < 100; n++)
        CHECK(dispatch(n) == 10 + n % 2);
    gate("stopped");
    return finish();
}
