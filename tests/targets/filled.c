/* Maps a file of 80 MB, writes `int3` over all of it, calls `work` until told to stop by a line on
 * standard input, and says whether every byte is still there. */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define SIZE (80UL << 20)

long work(long a);
__asm__(".text\n.globl work\n.type work,@function\nwork: lea (%rdi,%rdi,2),%rax\n"
	".globl probed\nprobed: add $1,%rax\n ret\n");

int main(int count, char **arguments)
{
	int file = open(count > 1 ? arguments[1] : "", O_RDWR);
	unsigned char *code =
		mmap(NULL, SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE, file, 0);
	struct pollfd input = {0, POLLIN, 0};
	long bad = 0;

	if (code == MAP_FAILED)
		return 2;
	memset(code, 0xcc, SIZE);
	puts("ready");
	fflush(stdout);
	while (poll(&input, 1, 1) == 0)
		bad += work(7) != 22;
	for (unsigned long i = 0; i < SIZE; i++)
		bad += code[i] != 0xcc;
	printf("bad %ld\n", bad);
	return bad != 0;
}
