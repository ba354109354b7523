/* What a program changes: registers, memory, vector registers, and where the thread goes on. */
#include "hazard.h"

long cell = 5;
char name[16] = "unaltered";

#define ALTERED(result, symbol, ...)                                                       \
    __attribute__((noinline, noclone)) result symbol(__VA_ARGS__);                         \
    result symbol(__VA_ARGS__)

ALTERED(long, add, long a, long b) { __asm__ volatile(""); return a + b; }
ALTERED(double, twice, double x) { __asm__ volatile(""); return x * 2; }
ALTERED(long, read_cell, void) { return *(volatile long *)&cell; }
ALTERED(long, skipped, long a)
{
    cell = -1;
    return a;
}
long answer(void);
__asm__(".pushsection .text\n.globl answer,answer_ret\n.type answer,@function\n"
        ".type answer_ret,@function\n"
        "answer: mov $41,%eax\nanswer_ret: ret\n.size answer,.-answer\n.popsection");

int main(void)
{
    gate("ready");
    for (int i = 0; i < 2; i++) {
        dprintf(1, "add %ld\n", add(1, 2));
        dprintf(1, "twice %ld\n", (long)(twice(4) * 100));
        dprintf(1, "cell %ld\n", read_cell());
        dprintf(1, "name %s\n", name);
        dprintf(1, "answer %ld\n", answer());
        dprintf(1, "skipped %ld\n", skipped(8));
        dprintf(1, "after %ld\n", read_cell());
        cell = 5;
        gate("round");
    }
    return finish();
}
