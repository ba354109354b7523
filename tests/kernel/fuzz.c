// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Programs that nobody would write for the kernel's verifier and interpreter:
 * inputs are altered by chance, and those that come to code where none was
 * before are kept and altered further.
 *
 *	fuzz ROUNDS SEED FINDING FILE...
 *
 * The files are the inputs to begin with.  An input is a struct head, and code.
 * Each array of a program has memory of its own, of exactly its size, so that
 * AddressSanitizer sees every access outside of it.  The input that a sanitizer
 * has found something with is written to FINDING.  How it went is printed:
 * rounds, accepted programs, inputs kept, places in the code come to.
 *
 * The parts of the interpreter are compiled with -fsanitize-coverage=trace-pc,
 * this file without.
 */
#define main harness_main
#include "harness.c"
#undef main

#include <sanitizer/common_interface_defs.h>

#define MOST_CODE 2048
#define MOST_KEPT 20000
#define FUZZ_BUDGET 3000
#define MAP (1U << 16)
#define MAPS 4

struct head {
	u8 vars;
	u8 gvars;
	u8 jmpmax;
	u8 names;
	u16 logmax;
	u16 ex_logmax;
	u16 heap;
	u16 split;
	u16 ex_mask;
	u8 flags;
	u8 kernel;
	u8 maps[MAPS];	/* kind, and from bit 4 how many items a key has */
};

struct input {
	u32 size;
	u8 data[sizeof(struct head) + MOST_CODE];
};

static struct input *kept[MOST_KEPT];
static u32 kept_count;
static struct input now;
static const char *finding;

/* -- where a program comes to ---------------------------------------------- */

static u8 seen[MAP], hit[MAP];
static u32 touched[MAP], touched_count;
static uintptr_t previous;

void __sanitizer_cov_trace_pc(void);
void __sanitizer_cov_trace_pc(void)
{
	uintptr_t at = (uintptr_t)__builtin_return_address(0);
	u32 edge = (at ^ previous << 5 ^ at >> 16) & (MAP - 1);

	previous = at;
	if (!hit[edge]) {
		hit[edge] = 1;
		touched[touched_count++] = edge;
	}
}

/* Whether the last input has come to something new; forgets where it was. */
static bool is_new(u32 *edges)
{
	bool found = false;

	while (touched_count) {
		u32 edge = touched[--touched_count];

		hit[edge] = 0;
		if (!seen[edge]) {
			seen[edge] = 1;
			++*edges;
			found = true;
		}
	}
	previous = 0;
	return found;
}

/* -- chance ---------------------------------------------------------------- */

static u64 state;

static u32 chance(u32 below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (u32)((state >> 16) % below);
}

static void insert(u32 at, u32 size)
{
	if (now.size + size > sizeof(now.data))
		return;
	memmove(now.data + at + size, now.data + at, now.size - at);
	now.size += size;
}

static void remove_part(u32 at, u32 size)
{
	if (at + size > now.size || now.size - size <= sizeof(struct head))
		return;
	memmove(now.data + at, now.data + at + size, now.size - at - size);
	now.size -= size;
}

/* An instruction of the table, with an operand that is often a small one. */
static void put_instruction(u32 at)
{
	u8 opcode = chance(256);
	u32 i, size = dp_insns[opcode].size;

	if (!size || now.size + size > sizeof(now.data))
		return;
	insert(at, size);
	now.data[at] = opcode;
	for (i = 1; i < size; i++)
		now.data[at + i] = i == 1 ? chance(64) : chance(8) ? 0 : chance(256);
}

static void alter(void)
{
	static const u8 words[] = { 0, 1, 2, 4, 7, 8, 63, 64, 127, 128, 254, 255 };
	u32 at = chance(now.size), code = sizeof(struct head);
	const struct input *other;
	u32 from, size;

	if (at < code && chance(4))
		at = code + chance(now.size - code);
	switch (chance(7)) {
	case 0:
		now.data[at] ^= 1U << chance(8);
		break;
	case 1:
		now.data[at] = words[chance(sizeof(words))];
		break;
	case 2:
		now.data[at] = chance(256);
		break;
	case 3:
		remove_part(at, 1 + chance(9));
		break;
	case 4:
	case 5:
		put_instruction(at < code ? code : at);
		break;
	default:
		other = kept[chance(kept_count)];
		from = code + chance(other->size - code);
		size = 1 + chance(other->size - from);
		at = at < code ? code : at;
		if (now.size + size > sizeof(now.data))
			break;
		insert(at, size);
		memcpy(now.data + at, other->data + from, size);
		break;
	}
}

/* -- one input ------------------------------------------------------------- */

/* A few keys each, so that there are too many. */
static void make_map(struct dprobes_map *def, u8 what)
{
	def->kind = what & 15;
	def->keys = what >> 4;
	def->size = 3;
	if (def->kind == DP_KIND_HIST)
		def->arguments[0] = 2;
	if (def->kind != DP_KIND_LHIST && def->kind != DP_KIND_TSERIES)
		return;
	def->arguments[0] = 5;
	def->arguments[1] = 100;
	if (def->kind == DP_KIND_LHIST)
		def->arguments[2] = 7;
}

/* Arrays of exactly their size; @code is what is behind the head. */
static void make_program(struct dp_program *program, const struct head *head,
			 struct dp_env *env)
{
	struct dprobes_load *def = &program->def;
	u32 i;

	def->modtype = head->kernel & 1 ? DPROBES_KERNEL : DPROBES_USER;
	def->flags = head->flags & DPROBES_AUTOSTACKTRACE;
	def->major = 1;
	def->vars = head->vars;
	def->gvars = head->gvars;
	def->jmpmax = head->jmpmax;
	def->logmax = head->logmax;
	def->ex_logmax = head->ex_logmax;
	def->code_size = now.size - sizeof(*head);
	def->probe_count = 1;
	def->facility_count = 2;
	def->name_count = head->names % 4;
	program->alter = true;
	program->code = take(def->code_size);
	program->probes = calloc(1, sizeof(*program->probes));
	program->probes[0].def.end = def->code_size;
	program->probes[0].def.heap = head->heap;
	program->probes[0].def.minor = 1;
	program->probes[0].def.split = head->split;
	program->probes[0].def.ex_mask = head->ex_mask;
	program->facilities = calloc(2, sizeof(u16));
	((u16 *)program->facilities)[0] = 4;
	((u16 *)program->facilities)[1] = 3;
	program->gone = calloc(2, 1);
	program->names = calloc(def->name_count + 1, sizeof(*program->names));
	for (i = 0; i < def->name_count; i++) {
		((struct dprobes_name *)program->names)[i].size = 1 + i;
		memset((void *)program->names[i].text, 'a', 1 + i);
	}
	program->symbols = calloc(def->name_count + 1, sizeof(u64));
	def->map_count = MAPS;
	program->maps = calloc(MAPS, sizeof(*program->maps));
	for (i = 0; i < MAPS; i++)
		make_map(&program->maps[i].def, head->maps[i]);
	program->locals = calloc(def->vars + 1, sizeof(u64));
	env->request.globals_count = def->gvars;
	program->globals_count = &env->request.globals_count;
	program->globals = calloc(def->gvars + 1, sizeof(u64));
}

static void free_program(struct dp_program *program)
{
	free((void *)program->code);
	free((void *)program->facilities);
	free((void *)program->gone);
	free((void *)program->names);
	free((void *)program->symbols);
	free_maps(program);
	free(program->probes);
	free(program->blocks);
	free(program->locals);
	free(program->globals);
}

/* Whether the verifier lets it through; then it was run, twice. */
static bool try_input(struct dp_machine *machine, struct dp_scratch *scratch)
{
	struct region region = { .start = 0x1000, .size = 64, .writable = 1 };
	struct dp_env env = { .regions = &region };
	struct dp_program program = { 0 };
	struct dp_buffers buffers = { 0 };
	struct head head;
	bool accepted;
	u64 size;
	u32 i;

	memcpy(&head, now.data, sizeof(head));
	message = now.data + sizeof(head);
	left = now.size - sizeof(head);
	region.data = calloc(1, region.size);
	env.request.region_count = 1;
	env.request.runs = 2;
	env.request.budget = FUZZ_BUDGET;
	make_program(&program, &head, &env);
	accepted = dp_verify(&program, scratch).reason == DPROBES_OK;
	if (accepted) {
		find_blocks(&program, scratch);
		make_maps(&program);
		free(run(machine, &program, &buffers, &env));
		for (i = 0; i < MAPS; i++)
			free(say_map(&program.maps[i], &size));
	}
	free_program(&program);
	free(region.data);
	return accepted;
}

static void keep(void)
{
	struct input *copy;

	if (kept_count == MOST_KEPT)
		return;
	copy = malloc(sizeof(*copy));
	*copy = now;
	kept[kept_count++] = copy;
}

static void tell_finding(void)
{
	FILE *file = fopen(finding, "wb");

	if (file) {
		fwrite(now.data, 1, now.size, file);
		fclose(file);
	}
}

static void begin_with(const char *name)
{
	FILE *file = fopen(name, "rb");

	if (!file)
		exit(3);
	now.size = fread(now.data, 1, sizeof(now.data), file);
	fclose(file);
}

int main(int count, char **arguments)
{
	struct dp_machine *machine = calloc(1, sizeof(*machine));
	struct dp_scratch *scratch = calloc(1, sizeof(*scratch));
	u32 rounds, round, edges = 0, accepted = 0;
	int i;

	if (count < 5)
		return 3;
	rounds = strtoul(arguments[1], NULL, 10);
	state = strtoul(arguments[2], NULL, 10) * 2654435761U + 1;
	finding = arguments[3];
	__sanitizer_set_death_callback(tell_finding);
	for (i = 4; i < count; i++) {
		begin_with(arguments[i]);
		if (now.size <= sizeof(struct head))
			return 3;
		accepted += try_input(machine, scratch);
		is_new(&edges);
		keep();
	}
	for (round = 0; round < rounds; round++) {
		u32 changes = 1 + chance(6);

		now = *kept[chance(kept_count)];
		while (changes--)
			alter();
		accepted += try_input(machine, scratch);
		if (is_new(&edges))
			keep();
	}
	printf("%u %u %u %u\n", rounds, accepted, kept_count, edges);
	while (kept_count)
		free(kept[--kept_count]);
	free(machine);
	free(scratch);
	return 0;
}
