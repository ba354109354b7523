/* A target that does nothing but come by a probe: for each number read from standard input it calls
 * tick() so many times and prints the nanoseconds of one call. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

/* What returns has room for a jump: what stands behind it up to the next function is never run. */
#define ALIGNED __attribute__((aligned(16)))

__attribute__((noinline)) ALIGNED void tick(long n)
{
#if defined BARE_HANDLER
	__asm__ volatile("int3" : : "r"(n) : "memory");
#elif defined LONG_ENTRY
	/* Room for a jump: a function of one `ret` has it only where something can be mapped. */
	__asm__ volatile("nopl 0(%%rax,%%rax,1)" : : "r"(n) : "memory");
#else
	__asm__ volatile("" : : "r"(n) : "memory");
#endif
}

/* So that something is behind it. */
__attribute__((noinline, used)) ALIGNED void behind(void)
{
	__asm__ volatile("" : : : "memory");
}

static ALIGNED uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#ifdef BARE_HANDLER
static void nothing(int signo)
{
	(void)signo;
}
#endif

ALIGNED int main(void)
{
	long count, i;

#ifdef BARE_HANDLER
	signal(SIGTRAP, nothing);
#endif

	while (scanf("%ld", &count) == 1) {
		uint64_t start = now();

		for (i = 0; i < count; i++)
			tick(i);
		printf("%.1f\n", (double)(now() - start) / (double)count);
		fflush(stdout);
	}
	return 0;
}
