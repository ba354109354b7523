/* The least that a ptrace tracer can do at a breakpoint, as the yardstick for ours.
 *
 *     ptrace_loop HITS        prints the nanoseconds of one hit
 *
 * A child calls a function HITS times whose first instruction is an int3. For each the parent waits,
 * reads the registers, writes them back (moved on past the int3, which the CPU has already done: the
 * value is the same, the work is not) and lets the child go on. Both keep to the CPU that the caller
 * gave us (taskset). The child times itself, as the probed target of the comparison does.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void tick(long);
__asm__(".text\n.globl tick\n.type tick, @function\ntick:\n\tint3\n\tret\n.size tick, . - tick\n");

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int child(long hits)
{
	uint64_t start;
	long i;

	if (ptrace(PTRACE_TRACEME, 0, 0, 0))
		fail("PTRACE_TRACEME");
	raise(SIGSTOP);
	start = now();
	for (i = 0; i < hits; i++)
		tick(i);
	printf("%.1f\n", (double)(now() - start) / (double)hits);
	return 0;
}

int main(int argc, char **argv)
{
	struct user_regs_struct regs;
	int status;
	pid_t pid;
	long hits = argc == 2 ? atol(argv[1]) : 0;

	if (hits <= 0) {
		fprintf(stderr, "usage: ptrace_loop HITS\n");
		return 2;
	}
	pid = fork();
	if (pid < 0)
		fail("fork");
	if (pid == 0)
		return child(hits);
	while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
		if (ptrace(PTRACE_GETREGS, pid, 0, &regs))
			fail("PTRACE_GETREGS");
		if (ptrace(PTRACE_SETREGS, pid, 0, &regs))
			fail("PTRACE_SETREGS");
		if (ptrace(PTRACE_CONT, pid, 0, 0))
			fail("PTRACE_CONT");
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
