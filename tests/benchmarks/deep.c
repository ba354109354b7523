/* A target that comes by a probe from a known depth: for each line "CALLS DEPTH" it calls tick() so
 * many times with so many frames on the stack above main, and prints the nanoseconds of one call. */
#include <stdint.h>
#include <stdio.h>
#include <time.h>

__attribute__((noinline)) void tick(long n)
{
	__asm__ volatile("" : : "r"(n) : "memory");
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

__attribute__((noinline, noclone)) static void deeper(long count, long depth)
{
	volatile char room[48];
	uint64_t start;
	long i;

	room[0] = (char)depth;
	if (depth > 1) {
		deeper(count, depth - 1);
	} else {
		start = now();
		for (i = 0; i < count; i++)
			tick(i);
		printf("%.1f\n", (double)(now() - start) / (double)count);
		fflush(stdout);
	}
	__asm__ volatile("" : : "r"(room[0]) : "memory");
}

int main(void)
{
	long count, depth;

	while (scanf("%ld %ld", &count, &depth) == 2)
		deeper(count, depth);
	return 0;
}
