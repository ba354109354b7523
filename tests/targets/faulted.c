/* Threads that check what they do: two call `work`, one sleeps, one makes children that call `work`.
 * Until told to stop by a line on standard input, then how often something was wrong; a semaphore
 * of a static probe that is not down then is wrong, too. */
#define _SDT_HAS_SEMAPHORES 1
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sdt.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

long work(long a, long b);
/* 3 * a + b + 1: one less if the probed instruction is skipped. */
__asm__(".text\n.globl work\n.type work,@function\nwork: lea (%rdi,%rdi,2),%rax\n add $0,%rax\n"
	".globl probed\nprobed: stc\n adc %rsi,%rax\n ret\n");

unsigned short faulted_turn_semaphore __attribute__((section(".probes")));

static atomic_int ended;
static atomic_long wrong, turns, naps, children;
long watched;

static long does(long turn)
{
	long bad = 0;

	for (long i = 0; i < 100; i++) {
		long more = work(i, turn) - (3 * i + turn + 1);

		if (more != 0)
			printf("sum %ld\n", more), bad++;
	}
	return bad;
}

static void *calls(void *unused)
{
	double half = 0.5;

	(void)unused;
	while (!ended) {
		wrong += does(turns++);
		if (faulted_turn_semaphore)
			STAP_PROBE1(faulted, turn, half);
		half = half * 3 - 1; /* in a vector register; stays 0.5 */
		if (half != 0.5)
			puts("half"), wrong++;
		if (turns % 64 == 0)
			watched++;
	}
	return NULL;
}

static void *sleeps(void *unused)
{
	struct timespec nap = {0, 3000000};

	(void)unused;
	while (!ended) {
		long result = syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &nap, NULL);

		if (result != 0)
			printf("slept %ld\n", result), wrong++;
		naps++;
	}
	return NULL;
}

static void *forks(void *unused)
{
	struct timespec nap = {0, 1000000};

	(void)unused;
	while (!ended) {
		int status = -1;
		pid_t child = fork();

		if (child == 0)
			_exit(does(7) != 0);
		errno = 0;
		if (waitpid(child, &status, 0) != child || status != 0)
			printf("child %x %d\n", status, errno), wrong++;
		children++;
		nanosleep(&nap, NULL);
	}
	return NULL;
}

int main(int count, char **arguments)
{
	void *(*const jobs[])(void *) = {calls, calls, sleeps, forks};
	pthread_t threads[4];
	int number = count > 1 ? atoi(arguments[1]) : 4;

	for (int i = 0; i < number; i++)
		pthread_create(&threads[i], NULL, jobs[i], NULL);
	puts("ready");
	fflush(stdout);
	while (getchar() != '\n')
		;
	ended = 1;
	for (int i = 0; i < number; i++)
		pthread_join(threads[i], NULL);
	if (faulted_turn_semaphore)
		printf("semaphore %d\n", faulted_turn_semaphore), wrong++;
	printf("bad %ld\n", (long)wrong);
	return wrong != 0;
}
