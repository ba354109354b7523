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
        say("add %ld\n", add(1, 2));
        say("twice %ld\n", (long)(twice(4) * 100));
        say("cell %ld\n", read_cell());
        say("name %s\n", name);
        say("answer %ld\n", answer());
        say("skipped %ld\n", skipped(8));
        say("after %ld\n", read_cell());
        cell = 5;
        gate("round");
    }
    return finish();
}
