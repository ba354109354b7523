// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Runs native code of probe programs: blobs in, what came of them out.
 *
 * A request on standard input is a 32-bit size, then struct request and its
 * arrays; the answer on standard output is a 32-bit size, then struct answer
 * and its arrays.  Each array ends before a page that cannot be accessed, code
 * cannot be written, and the stack that a blob runs on is looked at behind it.
 *
 * The memory of the target is that of the request: a filter of system calls
 * hands process_vm_readv(), process_vm_writev() and what asks for facts over to
 * a signal handler, which does what the kernel would do there.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

typedef uint32_t u32;
typedef uint64_t u64;
typedef uint8_t u8;

enum { KEPT = 8, STACK = 1 << 16, PAGE = 4096 };
#define NOT_ASKED (~(u32)0)

struct request {
	u32 code_size, stack_bytes, scratch_bytes, log_bytes, raw_pairs;
	u32 hit_words, data_words, global_words, gone_bytes, place_words;
	u32 map_bytes, region_count;
	/* Offsets in struct hit and struct data, or NOT_ASKED. */
	u32 at_fxsave, at_kept, at_scratch, at_log, at_raw;
	u32 at_globals, at_gone, at_maps;
	u64 kept[KEPT];
	u8 fxsave[512];
	u64 uid, gid;
	char comm[16];
};

struct answer {
	int64_t exit;
	u64 kept[KEPT];
	u8 fxsave[512];
};

struct region {
	u64 start;
	u32 size;
	u32 writable;
	u8 *data;
};

static struct region *regions;
static u32 region_count;
/* What the kernel would say of the thread. */
static struct request *asked;
static u8 *message;
static size_t left;
/* Of the memory of maps. */
static int maps_file;

static void fail(const char *why)
{
	fprintf(stderr, "%s\n", why);
	_exit(4);
}

static struct region *find(u64 address)
{
	u32 i;

	for (i = 0; i < region_count; i++)
		if (address - regions[i].start < regions[i].size)
			return &regions[i];
	return NULL;
}

static long transfer(const struct iovec *local, const struct iovec *remote,
		     size_t count, int writes)
{
	long done = 0;
	size_t i, n;

	for (i = 0; i < count; i++) {
		u64 from = (u64)remote[i].iov_base;
		size_t size = remote[i].iov_len;

		if (local[i].iov_len != size)
			fail("pieces of two lengths");
		for (n = 0; writes && n < size; n++) {
			struct region *region = find(from + n);

			if (!region || !region->writable)
				return done ? done : -EFAULT;
		}
		for (n = 0; n < size; n++, done++) {
			struct region *region = find(from + n);
			u8 *ours = (u8 *)local[i].iov_base + n;

			if (!region)
				return done ? done : -EFAULT;
			if (writes)
				region->data[from + n - region->start] = *ours;
			else
				*ours = region->data[from + n - region->start];
		}
	}
	return done;
}

static void on_system_call(int number, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	int writes = info->si_syscall == SYS_process_vm_writev;

	(void)number;
	switch (info->si_syscall) {
	case SYS_getuid:
		regs[REG_RAX] = asked->uid;
		return;
	case SYS_getgid:
		regs[REG_RAX] = asked->gid;
		return;
	case SYS_prctl:
		if (regs[REG_RDI] != PR_GET_NAME)
			fail("another prctl");
		memcpy((void *)regs[REG_RSI], asked->comm, 16);
		regs[REG_RAX] = 0;
		return;
	}
	if (regs[REG_RDI] != gettid() || regs[REG_RDX] != regs[REG_R8] ||
	    regs[REG_R9])
		fail("not on itself");
	regs[REG_RAX] = transfer((void *)regs[REG_RSI], (void *)regs[REG_R10],
				 regs[REG_RDX], writes);
}

static void filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_writev, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getuid, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getgid, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(*code), code };
	struct sigaction action = { .sa_sigaction = on_system_call,
				    .sa_flags = SA_SIGINFO | SA_ONSTACK };
	stack_t stack = { .ss_sp = malloc(STACK), .ss_size = STACK };

	if (sigaltstack(&stack, NULL) || sigaction(SIGSYS, &action, NULL) ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		fail("no filter of system calls");
}

/* -- memory ---------------------------------------------------------------- */

/* What was mapped for this request. */
static struct { u8 *start; size_t size; } mapped[64];
static u32 mapped_count;

/* Memory that ends where no access is possible; what is in it is noise. */
static u8 *guarded(size_t size)
{
	size_t whole = (size + PAGE - 1) / PAGE * PAGE;
	u8 *start = mmap(NULL, whole + PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (start == MAP_FAILED || mprotect(start + whole, PAGE, PROT_NONE) ||
	    mapped_count == 64)
		fail("no memory");
	mapped[mapped_count].start = start;
	mapped[mapped_count++].size = whole + PAGE;
	memset(start, 0xa5, whole);
	return start + whole - size;
}

static void unmap_all(void)
{
	while (mapped_count--)
		munmap(mapped[mapped_count].start, mapped[mapped_count].size);
	mapped_count = 0;
}

static u8 *take(size_t size)
{
	u8 *taken = guarded(size);

	if (size > left)
		fail("a short request");
	memcpy(taken, message, size);
	message += size;
	left -= size;
	return taken;
}

static void put(const void *from, size_t size)
{
	if (size && fwrite(from, 1, size, stdout) != size)
		exit(3);
}

/* -- one request ----------------------------------------------------------- */

/*
 * Call @code on a stack that ends at @top, with noise in the registers that it
 * is not given, and find that it has preserved those that it shall.
 */
int64_t call_blob(const void *code, void *hit, void *data, void *place,
		  void *top, u64 *broken);
__asm__(".globl call_blob\n"
	"call_blob:\n"
	"	push %rbx\n	push %rbp\n	push %r12\n"
	"	push %r13\n	push %r14\n	push %r15\n"
	"	push %r9\n"
	"	mov %rsp, -8(%r8)\n"
	"	lea -16(%r8), %rsp\n"
	"	mov %rdi, %rax\n	mov %rsi, %rdi\n"
	"	mov %rdx, %rsi\n	mov %rcx, %rdx\n"
	"	mov $0x1111, %rbx\n	mov $0x2222, %r12\n"
	"	mov $0x3333, %r13\n	mov $0x4444, %r14\n"
	"	mov $0x5555, %r15\n	mov %rsp, %rbp\n"
	"	std\n"
	"	call *%rax\n"
	"	pushf\n	pop %rcx\n	cld\n"
	"	sub %rsp, %rbp\n"
	"	sub $0x1111, %rbx\n	sub $0x2222, %r12\n"
	"	sub $0x3333, %r13\n	sub $0x4444, %r14\n"
	"	sub $0x5555, %r15\n"
	"	or %rbx, %rbp\n	or %r12, %rbp\n	or %r13, %rbp\n"
	"	or %r14, %rbp\n	or %r15, %rbp\n"
	"	mov 8(%rsp), %rsp\n"
	"	pop %r9\n	mov %rbp, (%r9)\n"
	"	pop %r15\n	pop %r14\n	pop %r13\n"
	"	pop %r12\n	pop %rbp\n	pop %rbx\n"
	"	ret\n");

static void point(u8 *at, u32 offset, const void *to)
{
	if (offset != NOT_ASKED)
		memcpy(at + offset, &to, sizeof(to));
}

static void answer_request(void)
{
	static u8 stack[STACK] __attribute__((aligned(16)));
	struct request *request = (void *)take(sizeof(*request));
	struct answer answer;
	u8 *fxsave = guarded(512), *kept = guarded(sizeof(request->kept));
	u8 *scratch = guarded((request->scratch_bytes + 15) / 16 * 16);
	u8 *log = guarded(request->log_bytes);
	u8 *raw = guarded(4 * request->raw_pairs);
	u8 *hit = take(8 * request->hit_words);
	u8 *data = take(8 * request->data_words);
	u8 *globals = take(8 * request->global_words);
	u8 *gone = take(request->gone_bytes);
	u8 *place = take(8 * request->place_words);
	u8 *maps = mmap(NULL, request->map_bytes, PROT_READ | PROT_WRITE,
			MAP_SHARED, maps_file, 0);
	u8 *code = take(request->code_size), *page;
	u64 broken = 0;
	u32 size, i;

	asked = request;
	memcpy(fxsave, request->fxsave, 512);
	memcpy(kept, request->kept, sizeof(request->kept));
	point(hit, request->at_fxsave, fxsave);
	point(hit, request->at_kept, kept);
	point(hit, request->at_scratch, scratch);
	point(hit, request->at_log, log);
	point(hit, request->at_raw, raw);
	point(data, request->at_globals, globals);
	point(data, request->at_gone, gone);
	point(data, request->at_maps, maps);
	region_count = request->region_count;
	regions = calloc(region_count + 1, sizeof(*regions));
	for (i = 0; i < region_count; i++) {
		u8 *head = take(offsetof(struct region, data));

		memcpy(&regions[i], head, offsetof(struct region, data));
		regions[i].data = take(regions[i].size);
	}
	page = (u8 *)((u64)code / PAGE * PAGE);
	if (mprotect(page, (u64)(code + request->code_size) - (u64)page,
		     PROT_READ | PROT_EXEC))
		fail("code cannot be run");
	if (maps == MAP_FAILED)
		fail("no memory of maps");
	memset(stack, 0xa5, sizeof(stack));
	answer.exit = call_blob(code, hit, data, place, stack + STACK, &broken);
	if (broken)
		fail("registers were not preserved");
	for (i = 0; i < STACK - 16 - request->stack_bytes; i++)
		if (stack[i] != 0xa5)
			fail("more stack than was told");
	memcpy(answer.fxsave, fxsave, 512);
	memcpy(answer.kept, kept, sizeof(answer.kept));
	size = sizeof(answer) + 8 * request->hit_words + request->log_bytes +
	       4 * request->raw_pairs + 8 * request->data_words +
	       8 * request->global_words;
	for (i = 0; i < region_count; i++)
		size += regions[i].size;
	put(&size, sizeof(size));
	put(&answer, sizeof(answer));
	put(hit, 8 * request->hit_words);
	put(log, request->log_bytes);
	put(raw, 4 * request->raw_pairs);
	put(data, 8 * request->data_words);
	put(globals, 8 * request->global_words);
	for (i = 0; i < region_count; i++)
		put(regions[i].data, regions[i].size);
	free(regions);
	munmap(maps, request->map_bytes);
	unmap_all();
}

int main(int count, char **arguments)
{
	u32 size;

	maps_file = count > 1 ? atoi(arguments[1]) : -1;
	filter();
	while (fread(&size, sizeof(size), 1, stdin) == 1) {
		u8 *whole = malloc(size);

		if (!whole || fread(whole, 1, size, stdin) != size)
			return 3;
		message = whole;
		left = size;
		answer_request();
		fflush(stdout);
		free(whole);
	}
	return 0;
}
