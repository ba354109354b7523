/* One of every kind of symbol; every function does something different, so that none are merged. */
#include <stdio.h>
#include <string.h>

extern int location_other(int);

int global_data = 7;
static int static_data[4] = {1, 2, 3, 4};
int zeroed_data;
const char constant_data[] = "not code";
__thread int thread_data = 5;

__attribute__((noinline)) static int helper(int x) { return x * 3 + 1; }

__attribute__((noinline, weak)) int weak_function(int x) { return x * 5; }

__attribute__((noinline)) int strong_function(int x) { return x * 7 + static_data[x & 3]; }
extern int alias_function(int) __attribute__((alias("strong_function")));

__attribute__((noinline, section("far_code"))) int far_function(int x) { return x ^ 0x55; }

/* A label without size, as assembler sources have; and code that nothing describes. */
__asm__(".text\n"
        ".globl bare_label\n"
        "bare_label:\n"
        "    movl $0x11223344, %eax\n"
        "    nop\n"
        "    ret\n"
        ".byte 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc\n");
extern int bare_label(void);

static int chosen(int x) { return x + 100; }
static int (*choose(void))(int) { return chosen; }
int chosen_at_start(int) __attribute__((ifunc("choose")));

int main(int argc, char **argv)
{
    int sum = helper(argc) + weak_function(argc) + strong_function(argc) + alias_function(argc);
    for (int i = 0; i < argc; i++) { /* line of the loop */
        sum += location_other(i);
    }
    sum += far_function(argc) + bare_label() + chosen_at_start(argc) + thread_data + zeroed_data;
    printf("%d %s %d\n", sum, strrchr(argv[0], '/'), global_data);
    fflush(stdout);
    return getchar() == EOF ? 0 : 1;
}
