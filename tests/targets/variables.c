/* Variables of every kind, for who reads debug information. Built with several options. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum color { RED, GREEN = 5, BLUE };
enum level { LOW = -1, HIGH = 1 };
struct point { int x, y; };
struct pair { double first; long second; };
struct large { long words[5]; };
typedef struct node {
    struct node *next;
    char name[16];
    unsigned flags : 3;
    unsigned mode : 5;
    int change : 4;
    enum color color;
    union { long number; double real; } as;
    struct point at[2];
    struct { short inner; };
    int (*call)(int);
} node_t;

static int counter = 3;
long total = 7;
const char *title = "a title";
double ratios[3] = { 0.5, 1.5, -2.25 };
unsigned char raw[4] = { 1, 2, 250, 255 };
enum level level = LOW;
static long double precise = 1.5L;
_Bool yes = 1;
float half = 0.5f;
__thread int of_thread = 9;

#define KEPT __attribute__((noinline, noclone))

static inline __attribute__((always_inline)) int twice(int v)
{
    int w = v * 2;
    w += counter;
    return w;
}

static int named(int n) { return n + 1; }

KEPT static long passes(struct pair pair, struct large large, char letter, short number,
                        unsigned long a, unsigned long b, unsigned long c, float small)
{
    long sum = (long)pair.first + pair.second + large.words[4] + letter + number;
    sum += (long)(a + b + c) + (long)small; /* passes */
    return sum;
}

KEPT int handle(node_t *n, long size, double ratio, struct point p, const char *what)
{
    int local = 1;
    static int calls;
    char text[8] = "text";
    calls++;
    for (int i = 0; i < 3; i++) {
        long inner = i * size;
        local += (int)inner + twice(i + calls); /* in the loop */
        total += local;
        if (local > 1000000)
            puts(text);
    }
    counter += local & 1; /* behind the loop */
    return local + n->flags + (int)ratio + p.x + p.y + what[0] + text[0] + of_thread;
}

KEPT static int depth(int n, node_t *of)
{
    int mine = n * 3;
    {
        int n = mine + 1; /* hides */
        mine += n;
    }
    if (n > 0)
        mine += depth(n - 1, of);
    return mine + of->change; /* leaves depth */
}

int main(int argc, char **argv)
{
    node_t n = { .next = 0, .name = "hello", .flags = 5, .mode = 17, .change = -3, .color = GREEN,
                 .as = { .real = 1.5 }, .at = { { 1, 2 }, { 3, 4 } }, .inner = 77, .call = named };
    struct point p = { 10, -20 };
    struct pair pair = { 2.5, argc + 40 };
    struct large large = { { 1, 2, 3, 4, 5 } };
    n.next = &n;
    int got = handle(&n, argc + 1000, 2.5, p, argv[0]);
    long all = passes(pair, large, 'x', -5, 1, 2, 3, 1.25f);
    got += depth(3, &n);
    precise += got;
    printf("%d %ld %Lf %p %d %f %f %d\n", got, all, precise, (void *)title, yes, half,
           ratios[argc % 3] + raw[argc % 4], level);
    return 0;
}
