/* A function that is called from 100 places, twice from each. */
#include "hazard.h"

__attribute__((noipa)) long called(long n) { return n; }

#define ONE sum += called(1);
#define TEN ONE ONE ONE ONE ONE ONE ONE ONE ONE ONE
#define HUNDRED TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN

int main(void)
{
    long sum = 0;
    gate("ready");
    for (int round = 0; round < 2; round++) {
        HUNDRED
    }
    CHECK(sum == 200);
    gate("stopped");
    return finish();
}
