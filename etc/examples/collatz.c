/* Counts the steps of the Collatz sequence from a number down to 1: what line.rpn probes. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	volatile unsigned long number = argc > 1 ? strtoul(argv[1], NULL, 10) : 27;
	unsigned long steps = 0;

	while (number > 1) {
		if (number % 2 == 0)
			number /= 2;
		else
			number = 3 * number + 1;
		steps++;
	}
	printf("%lu steps\n", steps);
	return 0;
}
