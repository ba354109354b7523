/* Four threads call `work` all the time and check its sums, until told to stop by a line on standard
 * input. Other letters there: what the program itself does with SIGTRAP. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 4

long work(long a, long b);
/* 3 * a + b + 1: one less if the probed instruction is skipped. */
__asm__(".text\n.globl work\n.type work,@function\nwork: lea (%rdi,%rdi,2),%rax\n add $0,%rax\n"
	".globl probed\nprobed: stc\n adc %rsi,%rax\n ret\n");

static volatile sig_atomic_t ended, caught;

static void *calls(void *unused)
{
	long bad = 0, turn = 0;

	(void)unused;
	while (!ended) {
		for (long i = 0; i < 100; i++)
			bad += work(i, turn) != 3 * i + turn + 1;
		turn++;
	}
	return (void *)bad;
}

static void trapped(int number)
{
	caught = number;
}

/* Whether SIGTRAP is caught, as the kernel says. */
static int is_caught(void)
{
	char line[256];
	unsigned long mask = 0;
	FILE *status = fopen("/proc/self/status", "r");

	while (status && fgets(line, sizeof line, status))
		sscanf(line, "SigCgt: %lx", &mask);
	if (status)
		fclose(status);
	return mask >> (SIGTRAP - 1) & 1;
}

static void does(int letter)
{
	struct sigaction action = {.sa_handler = trapped}, former;

	switch (letter) {
	case 'a': /* asks */
		sigaction(SIGTRAP, NULL, &former);
		puts(former.sa_handler == SIG_DFL ? "default" : "another");
		break;
	case 'h': /* handles it itself */
		sigaction(SIGTRAP, &action, &former);
		raise(SIGTRAP);
		printf("%s %d\n", former.sa_handler == SIG_DFL ? "default" : "another", caught);
		break;
	case 'g': /* ignores it */
		signal(SIGTRAP, SIG_IGN);
		puts("ignored");
		break;
	case 'b': /* blocks it */
		sigemptyset(&action.sa_mask);
		sigaddset(&action.sa_mask, SIGTRAP);
		pthread_sigmask(SIG_BLOCK, &action.sa_mask, NULL);
		puts("blocked");
		break;
	case 't':
		raise(SIGTRAP);
		break;
	case 'i':
		__asm__ volatile("int3");
		break;
	case 'f': /* a child: is it as if nobody had been here? */
		fflush(stdout);
		if (fork() == 0) {
			printf("%d %ld\n", is_caught(), work(1, 2));
			exit(0);
		}
		wait(NULL);
		break;
	}
	fflush(stdout);
}

int main(void)
{
	pthread_t threads[THREADS];
	long bad = 0;
	int letter;

	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, calls, NULL);
	puts("ready");
	fflush(stdout);
	while ((letter = getchar()) != EOF && letter != '\n')
		does(letter);
	ended = 1;
	for (int i = 0; i < THREADS; i++) {
		void *result;

		pthread_join(threads[i], &result);
		bad += (long)result;
	}
	printf("bad %ld\n", bad);
	return bad != 0;
}
