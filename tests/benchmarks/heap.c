/* A process with so many MiB of memory of its own, all touched. One thread looks at the clock all
 * the time; for each line on standard input the longest time that it was kept from it is printed,
 * in ns, and forgotten. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static _Atomic uint64_t longest;

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *look(void *unused)
{
	struct timespec pause = {0, 200000};
	uint64_t last = now();

	for (;;) {
		nanosleep(&pause, NULL);
		uint64_t here = now();
		if (here - last > longest)
			longest = here - last;
		last = here;
	}
	return unused;
}

int main(int count, char **arguments)
{
	size_t size = (size_t)atol(count > 1 ? arguments[1] : "1024") << 20;
	unsigned char *memory = malloc(size);
	pthread_t thread;
	char line[16];

	if (!memory || pthread_create(&thread, NULL, look, NULL))
		return 1;
	for (size_t i = 0; i < size; i += 8) /* no page is zero, none like another */
		*(size_t *)(memory + i) = i * 0x9E3779B97F4A7C15u + 1;
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		printf("%llu\n", (unsigned long long)atomic_exchange(&longest, 0));
		fflush(stdout);
	}
	return memory[size / 2] == 0xff;
}
