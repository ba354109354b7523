/* A target with a thousand functions, f000 to f999, that fifty threads call every 10 ms, one after the
 * other, until standard input ends. Prints "ready" once all threads have called each function. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#define THREADS 50
#define FUNCTIONS 1000

static atomic_long calls[FUNCTIONS];
static atomic_int ended;

#define F(n) \
	__attribute__((noinline)) void f##n(void) { calls[1##n - 1000]++; }
#define F10(n) F(n##0) F(n##1) F(n##2) F(n##3) F(n##4) F(n##5) F(n##6) F(n##7) F(n##8) F(n##9)
#define F100(n) F10(n##0) F10(n##1) F10(n##2) F10(n##3) F10(n##4) \
	F10(n##5) F10(n##6) F10(n##7) F10(n##8) F10(n##9)
F100(0) F100(1) F100(2) F100(3) F100(4) F100(5) F100(6) F100(7) F100(8) F100(9)

#define A(n) f##n,
#define A10(n) A(n##0) A(n##1) A(n##2) A(n##3) A(n##4) A(n##5) A(n##6) A(n##7) A(n##8) A(n##9)
#define A100(n) A10(n##0) A10(n##1) A10(n##2) A10(n##3) A10(n##4) \
	A10(n##5) A10(n##6) A10(n##7) A10(n##8) A10(n##9)
static void (*const functions[FUNCTIONS])(void) = {
	A100(0) A100(1) A100(2) A100(3) A100(4) A100(5) A100(6) A100(7) A100(8) A100(9)
};

static pthread_barrier_t ready;

static void *work(void *unused)
{
	int i;

	(void)unused;
	for (i = 0; i < FUNCTIONS; i++)
		functions[i]();
	pthread_barrier_wait(&ready);
	for (i = 0; !ended; i++) {
		functions[i % FUNCTIONS]();
		usleep(10000);
	}
	return NULL;
}

int main(void)
{
	pthread_t thread[THREADS];
	char c;
	int i;

	pthread_barrier_init(&ready, NULL, THREADS + 1);
	for (i = 0; i < THREADS; i++)
		if (pthread_create(&thread[i], NULL, work, NULL))
			return 1;
	pthread_barrier_wait(&ready);
	puts("ready");
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	ended = 1;
	for (i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	return 0;
}
