// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Many threads run native code at the same time, on the same data and maps.
 *
 * Arguments: a file with the code, the descriptor of memory (one page with
 * struct data, then the maps), its size, how many threads, how often each runs
 * it, and the offsets of Data.MAPS and of Hit.SCRATCH. Registers rdi and rsi are the number of the
 * thread and of the run.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef uint64_t u64;
typedef uint8_t u8;

enum { RSI = 13, RDI = 14, WORDS = 64, PAGE = 4096 };

static int64_t (*code)(u64 *hit, u64 *data, const u64 *place);
static u8 *memory;
static u64 runs, at_scratch;
static pthread_barrier_t barrier;

static void *run(void *number)
{
	u64 i, place[1] = { 0 };

	pthread_barrier_wait(&barrier);
	for (i = 0; i < runs; i++) {
		u64 scratch[512], hit[WORDS] = { 0 };

		hit[RDI] = (u64)number;
		hit[RSI] = i;
		hit[at_scratch / 8] = (u64)scratch;
		if (code(hit, (u64 *)memory, place))
			exit(2);
	}
	return NULL;
}

int main(int count, char **arguments)
{
	pthread_t threads[64];
	u64 i, many;
	FILE *file;
	void *text;

	if (count != 8)
		return 3;
	file = fopen(arguments[1], "r");
	text = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!file || fread(text, 1, 16 * PAGE, file) == 0)
		return 4;
	mprotect(text, 16 * PAGE, PROT_READ | PROT_EXEC);
	memcpy(&code, &text, sizeof(code));
	memory = mmap(NULL, strtoul(arguments[3], NULL, 0),
		      PROT_READ | PROT_WRITE, MAP_SHARED, atoi(arguments[2]), 0);
	if (memory == MAP_FAILED)
		return 5;
	many = strtoul(arguments[4], NULL, 0);
	runs = strtoul(arguments[5], NULL, 0);
	*(u64 *)(memory + strtoul(arguments[6], NULL, 0)) = (u64)(memory + PAGE);
	at_scratch = strtoul(arguments[7], NULL, 0);
	pthread_barrier_init(&barrier, NULL, many);
	for (i = 0; i < many; i++)
		pthread_create(&threads[i], NULL, run, (void *)i);
	for (i = 0; i < many; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
