// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Native code that reads and writes real memory, which other threads map and
 * unmap meanwhile.  Takes three files with blobs: what reads the 64 bits at
 * rdi and logs them, what logs the 16 bytes there, what writes rsi there.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef uint64_t u64;
typedef uint8_t u8;

/* As of abi.py; the order of its fields is in the arguments of the program. */
enum { RSI = 13, RDI = 14, RSP = 19, WORDS = 64, PAGE = 4096, EXCEPTION = -3 };

typedef int64_t blob(u64 *hit, u64 *data, const u64 *place);

static int at_log, at_log_size, at_raw, at_exception, at_red_zone;
static blob *reads, *logs, *writes;

static void check(int holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "%s\n", what);
		exit(1);
	}
}

static blob *load(const char *path)
{
	FILE *file = fopen(path, "r");
	void *code = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	check(file && fread(code, 1, 4 * PAGE, file) > 0, path);
	mprotect(code, 4 * PAGE, PROT_READ | PROT_EXEC);
	fclose(file);
	return (blob *)code;
}

/* A hit; what is logged goes to @log. */
static int64_t run(blob *code, void *address, u64 word, u64 *log, u64 *size)
{
	u64 hit[WORDS] = { 0 }, data[16] = { 0 }, place[1] = { 0 }, raw[8];
	int64_t ended;

	hit[RDI] = (u64)address;
	hit[RSI] = word;
	hit[at_log / 8] = (u64)log;
	hit[at_raw / 8] = (u64)raw;
	hit[at_red_zone / 8] = (u64)(hit + WORDS);
	ended = code(hit, data, place);
	*size = hit[at_log_size / 8];
	if (ended == EXCEPTION)
		check(hit[at_exception / 8] == 1, "another exception");
	return ended;
}

static int can_read(void *address, u64 *word)
{
	u64 log[256], size;
	int64_t ended = run(reads, address, 0, log, &size);

	check(ended == 0 || ended == EXCEPTION, "neither read nor refused");
	check(size == (ended ? 0 : 8), "another log");
	*word = log[0];
	return !ended;
}

static int can_write(void *address, u64 word)
{
	u64 log[256], size;
	int64_t ended = run(writes, address, word, log, &size);

	check(ended == 0 || ended == EXCEPTION, "neither written nor refused");
	return !ended;
}

static u64 word_at(const void *address)
{
	u64 word;

	memcpy(&word, address, sizeof(word));
	return word;
}

static void two_pages(uint8_t *border, int first, int second)
{
	u64 before;

	mprotect(border - PAGE, 2 * PAGE, PROT_READ | PROT_WRITE);
	memset(border - PAGE, 0x11, 2 * PAGE);
	before = word_at(border - 3);
	mprotect(border - PAGE, PAGE, first);
	mprotect(border, PAGE, second);
	check(!can_write(border - 3, 0x2222222222222222), "a write to a page "
	      "that cannot be written");
	check(word_at(border - 3) == before, "half of it was written");
}

/* A write over the border between what is ours and the thread's own. */
static void half_of_ours(void)
{
	struct { u64 hit[WORDS]; u8 own[64]; } frame = { { 0 }, { 0 } };
	u64 data[16] = { 0 }, place[1] = { 0 }, last;

	frame.hit[RDI] = (u64)(frame.own - 3);
	frame.hit[RSI] = 0x8877665544332211;
	frame.hit[at_red_zone / 8] = (u64)frame.own;
	frame.hit[WORDS - 1] = last = 0x1234123412341234;
	check(writes(frame.hit, data, place) == 0, "a write to the stack");
	check(frame.hit[WORDS - 1] == last, "what is ours was written");
	check(word_at(frame.own) == 0x8877665544, "the thread's own was not");
}

static atomic_int is_over;
static uint8_t *shared;

static void *remap(void *unused)
{
	(void)unused;
	while (!is_over) {
		munmap(shared, PAGE);
		mmap(shared, PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		mprotect(shared, PAGE, PROT_NONE);
		mprotect(shared, PAGE, PROT_READ);
	}
	return NULL;
}

int main(int count, char **arguments)
{
	uint8_t *pages = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	u64 word = 0, log[256], size, own[32];
	pthread_t other;
	int i;

	check(count == 9, "arguments");
	at_log = atoi(arguments[4]);
	at_log_size = atoi(arguments[5]);
	at_raw = atoi(arguments[6]);
	at_exception = atoi(arguments[7]);
	at_red_zone = atoi(arguments[8]);
	reads = load(arguments[1]);
	logs = load(arguments[2]);
	writes = load(arguments[3]);

	memset(pages, 0x33, 4 * PAGE);
	check(can_read(pages + PAGE - 3, &word) && word == 0x3333333333333333,
	      "memory that is there");
	check(!can_read((void *)8, &word), "memory that is not there");
	check(!can_read((void *)0xffffffff81000000, &word), "the kernel's");
	check(can_write(pages + PAGE - 3, 0x4444444444444444) &&
	      word_at(pages + PAGE - 3) == 0x4444444444444444, "a write");
	/* Of the thread's own stack: above, and where the hit itself is. */
	own[7] = 0x5555;
	check(can_read(&own[7], &word) && word == 0x5555, "the stack");
	check(can_write(&own[7], 0x6666) && own[7] == 0x6666, "to the stack");
	half_of_ours();
	two_pages(pages + 2 * PAGE, PROT_READ | PROT_WRITE, PROT_READ);
	two_pages(pages + 2 * PAGE, PROT_READ, PROT_READ | PROT_WRITE);
	two_pages(pages + 2 * PAGE, PROT_READ, PROT_READ);
	/* Up to the page that cannot be read, and the address of that. */
	mprotect(pages + 2 * PAGE, PAGE, PROT_NONE);
	check(run(logs, pages + 2 * PAGE - 5, 0, log, &size) == EXCEPTION &&
	      size == 11 + 5 + 11, "what could be read of it");

	mprotect(pages + 2 * PAGE, PAGE, PROT_READ);
	shared = pages + 3 * PAGE;
	memset(shared, 0, PAGE);
	check(!pthread_create(&other, NULL, remap, NULL), "a thread");
	for (i = 0; i < 20000; i++) {
		if (can_read(shared, &word))
			check(!word || word == 0x7777, "what nobody wrote");
		can_write(shared, 0x7777);
		run(logs, shared - 4, 0, log, &size);
		check(size == 11 + 16 || size == 11 + 4 + 11, "another length");
	}
	is_over = 1;
	pthread_join(other, NULL);
	return 0;
}
