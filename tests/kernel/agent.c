// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The first and only process of the virtual machine: makes the system calls
 * that the tests ask for, over the second serial line.
 *
 * A message is a 32-bit size and then requests, one after the other; the
 * answer is a 32-bit size and their answers.  A request is a letter, and
 *
 *	W address size data	write memory
 *	R address size		read memory; the answer is the data
 *	D fd size		read(2); the answer is its result (64 bits), and
 *				the data, if any
 *	G address		look for lines: at the address are the name of a file
 *				and what a line has in it, each with its zero; the
 *				answer is how many there are, and the first 16 bytes
 *				of the last one
 *	S count number 6*args	make a system call so often; the answer is the
 *				last result, -errno if it failed (64 bits)
 *	B number 6*args		the same for ever, in a process of its own; the
 *				answer is its pid (64 bits)
 *	X wait address		run a program: at the address are its arguments, each
 *				with its zero, then an empty one, then its environment,
 *				and an empty one; the answer is how it ended (as of
 *				waitpid) and what it printed; not to wait: it goes on,
 *				and the answer is its pid (64 bits)
 *	C cpu			go to that CPU, and stay there
 *
 * Numbers have 64 bits.  Memory from 0x10000000 on, 4 MiB, is there to use.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define AREA 0x10000000UL
#define AREA_SIZE (64UL << 20)
#define MESSAGE (1U << 20)

static int line;
static uint8_t request[MESSAGE], answer[MESSAGE];
static size_t answered;

static void whole(ssize_t (*call)(int, void *, size_t), void *data, size_t size)
{
	size_t done = 0;

	while (done < size) {
		ssize_t got = call(line, (uint8_t *)data + done, size - done);

		if (got > 0)
			done += got;
		else if (got == 0 || errno != EINTR)
			_exit(1);
	}
}

static ssize_t writes(int fd, void *data, size_t size)
{
	return write(fd, data, size);
}

static uint64_t number(uint8_t **at)
{
	uint64_t value;

	memcpy(&value, *at, sizeof(value));
	*at += sizeof(value);
	return value;
}

static void put(const void *data, size_t size)
{
	if (answered + size > sizeof(answer))
		_exit(1);
	memcpy(answer + answered, data, size);
	answered += size;
}

static int64_t make_call(const uint64_t *args)
{
	long result = syscall(args[0], args[1], args[2], args[3], args[4],
			      args[5], args[6]);

	return result < 0 ? -errno : result;
}

static void take_call(uint8_t **at, uint64_t *args)
{
	int i;

	for (i = 0; i < 7; i++)
		args[i] = number(at);
}

static void look_for(char *names)
{
	const char *wanted = names + strlen(names) + 1;
	FILE *file = fopen(names, "r");
	char text[1024], last[16] = "";
	uint64_t count = 0;

	while (file && fgets(text, sizeof(text), file)) {
		if (!strstr(text, wanted))
			continue;
		memcpy(last, text, sizeof(last));
		count++;
	}
	if (file)
		fclose(file);
	put(&count, sizeof(count));
	put(last, sizeof(last));
}

/* The texts from an address on, up to an empty one; returns what is behind. */
static char *texts(char *at, char **list, int room)
{
	int count = 0;

	for (; *at; at += strlen(at) + 1)
		if (count < room - 1)
			list[count++] = at;
	list[count] = NULL;
	return at + 1;
}

static void become(char *names, int output)
{
	char *arguments[32], *environment[32];
	int input = open("/dev/null", O_RDONLY);

	texts(texts(names, arguments, 32), environment, 32);
	dup2(input, 0);
	dup2(output, 1);
	dup2(output, 2);
	execve(arguments[0], arguments, environment);
	_exit(127);
}

static void run(uint64_t wait, char *names)
{
	static uint8_t printed[MESSAGE / 2];
	size_t size = 0;
	ssize_t got = 1;
	int64_t result;
	int ends[2], status = 0;

	if (pipe2(ends, O_CLOEXEC))
		_exit(1);
	if (!wait) {
		close(ends[1]);
		ends[1] = open("/log", O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC,
			       0600);
	}
	result = fork();
	if (!result)
		become(names, ends[1]);
	close(ends[1]);
	while (wait && got > 0 && size < sizeof(printed)) {
		got = read(ends[0], printed + size, sizeof(printed) - size);
		size += got > 0 ? got : 0;
	}
	close(ends[0]);
	if (wait) {
		waitpid(result, &status, 0);
		result = status;
	}
	put(&result, sizeof(result));
	put(printed, size);
}

static void one(uint8_t **at)
{
	uint64_t args[7], address, size, count;
	int64_t result = 0;
	cpu_set_t cpus;

	switch (*(*at)++) {
	case 'W':
		address = number(at);
		size = number(at);
		memcpy((void *)address, *at, size);
		*at += size;
		break;
	case 'R':
		address = number(at);
		size = number(at);
		put((void *)address, size);
		break;
	case 'D':
		args[0] = SYS_read;
		args[1] = number(at);
		args[2] = AREA;
		args[3] = number(at);
		result = make_call(args);
		put(&result, sizeof(result));
		if (result > 0)
			put((void *)AREA, result);
		break;
	case 'G':
		look_for((char *)number(at));
		break;
	case 'S':
		count = number(at);
		take_call(at, args);
		while (count--)
			result = make_call(args);
		put(&result, sizeof(result));
		break;
	case 'B':
		take_call(at, args);
		result = fork();
		while (!result)
			make_call(args);
		put(&result, sizeof(result));
		break;
	case 'X':
		count = number(at);
		run(count, (char *)number(at));
		break;
	case 'C':
		CPU_ZERO(&cpus);
		CPU_SET(number(at), &cpus);
		sched_setaffinity(0, sizeof(cpus), &cpus);
		break;
	default:
		_exit(1);
	}
}

int main(void)
{
	struct termios raw;
	uint32_t size = 0;

	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	mmap((void *)AREA, AREA_SIZE, PROT_READ | PROT_WRITE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	line = open("/dev/ttyS1", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (line < 0 || tcgetattr(line, &raw))
		return 1;
	cfmakeraw(&raw);
	tcsetattr(line, TCSANOW, &raw);
	whole(writes, &size, sizeof(size));
	for (;;) {
		uint8_t *at = request;

		whole(read, &size, sizeof(size));
		if (size > sizeof(request))
			return 1;
		whole(read, request, size);
		answered = 0;
		while (at < request + size)
			one(&at);
		size = answered;
		whole(writes, &size, sizeof(size));
		whole(writes, answer, answered);
	}
}
