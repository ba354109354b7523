// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The kernel's interpreter in user space: programs in, what came of them out.
 *
 * A request on standard input is a 32-bit size, then struct request and its
 * arrays without padding; the answer on standard output is a 32-bit size, then
 * struct answer and its arrays.  Each array has memory of its own, of exactly
 * its size, so that AddressSanitizer sees every access outside of it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "interp.h"

struct request {
	struct dprobes_load def;
	u32 budget;
	u32 runs;
	u32 probe;
	u32 alter;
	u32 globals_count;
	u32 region_count;
	u64 kept[DP_KEPT_WORDS];
	u64 facts[7];
	u8 comm[16];
	u64 regs[DP_REGS];
};

struct region {
	u64 start;
	u32 size;
	u32 writable;
	u8 *data;
};

struct answer {
	u32 refused;
	u32 where;
	s32 exit;
	u16 major;
	u16 minor;
	u32 log_size;
	u32 raw_count;
	u32 suspend;
	u32 resume;
	u64 exception[3];
	u64 regs[DP_REGS];
};

/* So many CPUs there are: hits are on one after the other. */
#define CPUS 2

struct dp_env {
	struct request request;
	struct region *regions;
};

static struct region *find(struct dp_env *env, u64 address)
{
	u32 i;

	for (i = 0; i < env->request.region_count; i++)
		if (address - env->regions[i].start < env->regions[i].size)
			return &env->regions[i];
	return NULL;
}

u32 dp_env_read(struct dp_env *env, u64 address, void *to, u32 size)
{
	u32 done;

	for (done = 0; done < size; done++) {
		struct region *region = find(env, address + done);

		if (!region)
			break;
		((u8 *)to)[done] = region->data[address + done - region->start];
	}
	return done;
}

bool dp_env_writable(struct dp_env *env, u64 address)
{
	struct region *region = find(env, address);

	return region && region->writable;
}

bool dp_env_write(struct dp_env *env, u64 address, const void *from, u32 size)
{
	u32 i;

	for (i = 0; i < size; i++)
		if (!dp_env_writable(env, address + i))
			return false;
	for (i = 0; i < size; i++) {
		struct region *region = find(env, address + i);

		region->data[address + i - region->start] = ((u8 *)from)[i];
	}
	return true;
}

u64 dp_env_reg(struct dp_env *env, bool task, u32 index)
{
	(void)task;
	return env->request.regs[index];
}

void dp_env_set_reg(struct dp_env *env, bool task, u32 index, u64 value)
{
	(void)task;
	env->request.regs[index] = value;
}

u64 dp_env_fact(struct dp_env *env, enum dp_fact fact)
{
	return env->request.facts[fact];
}

/* As many frames as r15 says. */
u32 dp_env_stack(struct dp_env *env, u64 *frames, u32 most)
{
	u32 i;

	for (i = 0; i < most && i < env->request.regs[DP_REG_R15]; i++)
		frames[i] = 0xffffffff81000000 + 16 * i;
	return i;
}

void dp_env_comm(struct dp_env *env, u8 *comm)
{
	memcpy(comm, env->request.comm, 16);
}

/* Hook 1 tells the words apart. */
bool dp_env_callk(struct dp_env *env, u64 number, const u64 *words, u64 *value)
{
	u32 i;

	(void)env;
	for (i = 0; number == 1 && i < DP_HOOK_WORDS; i++)
		*value = 10 * *value + words[i];
	return number == 1;
}

/* Words that tell number, order and what was taken apart; model-specific: 0x10. */
bool dp_env_cpu_reg(struct dp_env *env, u32 index, u64 taken, u64 *words)
{
	u32 i;

	(void)env;
	for (i = 0; i < 4; i++)
		words[i] = 100 * index + 10 * i + taken;
	return index != DP_CPU_MSR || taken == 0x10;
}

/* What was written last is in r15 with where and how. */
u64 dp_env_port(struct dp_env *env, u16 port, u32 width)
{
	(void)env;
	return 10 * port + width;
}

void dp_env_set_port(struct dp_env *env, u16 port, u32 width, u64 value)
{
	env->request.regs[DP_REG_R15] = 1000 * value + 10 * port + width;
}

bool dp_env_segment(struct dp_env *env, u16 selector, u64 *base)
{
	(void)env;
	*base = 0x1000;
	return selector == 1;
}

/* -- what came in ---------------------------------------------------------- */

static u8 *message;
static size_t left;

static void *take(size_t size)
{
	void *taken = malloc(size ? size : 1);

	if (!taken || size > left)
		abort();
	memcpy(taken, message, size);
	message += size;
	left -= size;
	return taken;
}

static void take_into(void *to, size_t size)
{
	void *taken = take(size);

	memcpy(to, taken, size);
	free(taken);
}

static bool read_all(void *to, size_t size)
{
	return fread(to, 1, size, stdin) == size;
}

static void put(const void *from, size_t size)
{
	if (size && fwrite(from, 1, size, stdout) != size)
		exit(3);
}

/* -- one request ----------------------------------------------------------- */

static void take_program(struct dp_program *program, struct dp_env *env)
{
	const struct dprobes_load *def = &program->def;
	struct dprobes_probe *probes;
	u32 i;

	program->def = env->request.def;
	program->alter = env->request.alter;
	program->code = take(def->code_size);
	probes = take(def->probe_count * sizeof(*probes));
	program->probes = calloc(def->probe_count + 1, sizeof(*program->probes));
	for (i = 0; i < def->probe_count; i++)
		program->probes[i].def = probes[i];
	free(probes);
	program->facilities = take(def->facility_count * sizeof(u16));
	program->gone = take(def->facility_count);
	program->names = take(def->name_count * sizeof(*program->names));
	program->symbols = take(def->name_count * sizeof(u64));
	program->maps = calloc(def->map_count + 1, sizeof(*program->maps));
	for (i = 0; i < def->map_count; i++)
		take_into(&program->maps[i].def, sizeof(program->maps[i].def));
	program->locals = take(def->vars * sizeof(u64));
	program->globals_count = &env->request.globals_count;
	program->globals = take(env->request.globals_count * sizeof(u64));
	env->regions = calloc(env->request.region_count + 1, sizeof(*env->regions));
	for (i = 0; i < env->request.region_count; i++) {
		take_into(&env->regions[i], offsetof(struct region, data));
		env->regions[i].data = take(env->regions[i].size);
	}
}

static void find_blocks(struct dp_program *program, struct dp_scratch *scratch)
{
	u32 i, total = 0, count = DP_PARTS * program->def.probe_count;
	struct dp_blocks *to;

	for (i = 0; i < count; i++) {
		to = &program->probes[i / DP_PARTS].parts[i % DP_PARTS];
		to->first = total;
		to->count = dp_find_blocks(program, i / DP_PARTS, i % DP_PARTS,
					   scratch, NULL, 0);
		total += to->count;
	}
	program->blocks = calloc(total, sizeof(*program->blocks));
	for (i = 0; i < count; i++) {
		to = &program->probes[i / DP_PARTS].parts[i % DP_PARTS];
		dp_find_blocks(program, i / DP_PARTS, i % DP_PARTS, scratch,
			       program->blocks + to->first, to->count);
	}
}

/* Little memory: there are cases in which it is not enough. */
static void make_maps(struct dp_program *program)
{
	struct dp_map *map = program->maps;
	u32 i, cpu;

	for (i = 0; i < program->def.map_count; i++, map++) {
		dp_map_lay_out(map, 1 << 20, 1 << 20);
		map->bank = dp_bank_init(map, CPUS, 7 + i,
					 calloc(1, dp_bank_size(map, CPUS)));
		for (cpu = 0; cpu < CPUS; cpu++)
			map->bank->cells[cpu] = dp_cells_init(
				map, calloc(1, dp_cells_size(map)));
	}
}

static void free_maps(struct dp_program *program)
{
	struct dp_map *map = program->maps;
	u32 i, cpu;

	for (i = 0; i < program->def.map_count; i++, map++) {
		for (cpu = 0; map->bank && cpu < CPUS; cpu++)
			free(map->bank->cells[cpu]);
		free(map->bank);
	}
	free(program->maps);
}

/* What is in a map, behind how many bytes that is, and what was lost. */
static u8 *say_map(const struct dp_map *map, u64 *size)
{
	struct dp_entry *entry = malloc(map->entry_bytes);
	u64 *words = calloc(2, 8 * (size_t)map->cell_words + 8);
	u32 used = dp_bank_used(map->bank), i, head[2];
	u64 room = 16 + (u64)used * (8 + map->entry_bytes +
				     8 * (map->cell_words + 1));
	u8 *data = malloc(room), *to = data + 16;
	u64 lost = dp_bank_lost(map->bank, CPUS);

	for (i = 1; i <= used; i++) {
		if (!dp_bank_entry(map, map->bank, i, entry))
			continue;
		head[0] = entry->size;
		head[1] = map->cell_words;
		if (!head[1]) {
			head[1] = 1;
			words[0] = entry->word;
		} else if (!dp_bank_cell(map, map->bank, i, CPUS, words,
					 words + map->cell_words)) {
			head[1] = 0;
		}
		memcpy(to, head, sizeof(head));
		memcpy(to + 8, entry->key, entry->size);
		to += 8 + entry->size;
		memcpy(to, words, 8 * head[1]);
		to += 8 * head[1];
	}
	*size = to - data;
	room = *size - 16;
	memcpy(data, &room, 8);
	memcpy(data + 8, &lost, 8);
	free(words);
	free(entry);
	return data;
}

/* Run it as often as is asked for; returns the memory of its buffers. */
static void *run(struct dp_machine *machine, struct dp_program *program,
		 struct dp_buffers *buffers, struct dp_env *env)
{
	size_t size = dp_buffers_size(program);
	void *memory = malloc(size);
	u32 i;

	/* As it is in the kernel: what an earlier hit left behind. */
	memset(memory, 0xa5, size);
	dp_buffers_init(buffers, program, memory);
	machine->kept = env->request.kept;
	for (i = 0; i < env->request.runs; i++) {
		u32 probe = env->request.probe;

		machine->cpu = i % CPUS;
		if (program->probes[probe].parts[DP_AT_ENTRY].count)
			dp_run(machine, program, probe, DP_AT_ENTRY, buffers,
			       env, env->request.budget);
		if (!program->probes[probe].parts[DP_AT_ENTRY].count ||
		    machine->out.exit == DP_EXIT_EXIT)
			dp_run(machine, program, probe, DP_AT_HIT, buffers, env,
			       env->request.budget);
	}
	return memory;
}

static void put_answer(struct answer *answer, const struct dp_program *program,
		       const struct dp_outcome *out,
		       const struct dp_buffers *buffers, const struct dp_env *env)
{
	u32 size = sizeof(*answer), maps, i;
	u64 sizes[DP_MAX_MAPS] = { 0 };
	u8 *said[DP_MAX_MAPS];

	maps = answer->refused ? 0 : program->def.map_count;
	for (i = 0; i < maps; i++) {
		said[i] = say_map(&program->maps[i], &sizes[i]);
		size += sizes[i];
	}
	size += answer->raw_count * sizeof(struct dprobes_raw) +
		answer->log_size;
	size += 8 * (program->def.vars + env->request.globals_count);
	for (i = 0; i < env->request.region_count; i++)
		size += env->regions[i].size;
	put(&size, sizeof(size));
	put(answer, sizeof(*answer));
	put(buffers->raw, answer->raw_count * sizeof(struct dprobes_raw));
	put(buffers->log, out->log_size);
	put(buffers->trace, out->trace_size);
	put(program->locals, 8 * program->def.vars);
	put(program->globals, 8 * env->request.globals_count);
	for (i = 0; i < env->request.region_count; i++)
		put(env->regions[i].data, env->regions[i].size);
	for (i = 0; i < maps; i++) {
		put(said[i], sizes[i]);
		free(said[i]);
	}
}

static void answer_request(struct dp_machine *machine,
			   struct dp_scratch *scratch)
{
	struct dp_env env = { 0 };
	struct dp_program program = { 0 };
	struct dp_buffers buffers = { 0 };
	struct dp_outcome out = { 0 };
	struct answer answer = { 0 };
	struct dp_refusal refusal;
	void *memory = NULL;
	u32 i;

	take_into(&env.request, sizeof(env.request));
	take_program(&program, &env);
	refusal = dp_verify(&program, scratch);
	answer.refused = refusal.reason;
	answer.where = refusal.where;
	if (!refusal.reason) {
		find_blocks(&program, scratch);
		make_maps(&program);
		memory = run(machine, &program, &buffers, &env);
		out = machine->out;
	}
	answer.exit = out.exit;
	answer.major = out.major;
	answer.minor = out.minor;
	answer.log_size = out.log_size + out.trace_size;
	answer.raw_count = out.raw_count;
	answer.suspend = out.suspend;
	answer.resume = out.resume;
	memcpy(answer.exception, out.exception, sizeof(answer.exception));
	memcpy(answer.regs, env.request.regs, sizeof(answer.regs));
	put_answer(&answer, &program, &out, &buffers, &env);
	for (i = 0; i < env.request.region_count; i++)
		free(env.regions[i].data);
	free(env.regions);
	free(memory);
	free(program.blocks);
	free(program.probes);
	free(program.locals);
	free(program.globals);
	free((void *)program.code);
	free((void *)program.facilities);
	free((void *)program.gone);
	free((void *)program.names);
	free((void *)program.symbols);
	free_maps(&program);
}

int main(void)
{
	struct dp_machine *machine = calloc(1, sizeof(*machine));
	struct dp_scratch *scratch = calloc(1, sizeof(*scratch));
	u32 size;

	while (read_all(&size, sizeof(size))) {
		u8 *whole = malloc(size);

		if (!whole || !read_all(whole, size))
			return 3;
		message = whole;
		left = size;
		answer_request(machine, scratch);
		fflush(stdout);
		free(whole);
	}
	free(machine);
	free(scratch);
	return 0;
}
