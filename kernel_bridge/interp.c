// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The verifier and the interpreter of probe programs.
 *
 * The same file is part of the kernel module and, in user space, of its tests;
 * the instruction table (isa.h) is written from the one that all executors
 * have, and what a program comes to is what Python's executor says.
 *
 * Rules: nothing is allocated, nothing sleeps, no loop is without a bound.  A
 * program that dp_verify() let through reads and writes nothing outside of its
 * machine, its buffers and its variables, whatever its instructions are: what
 * the stack holds is looked at by position modulo its size, every index and
 * every size is checked when it is used.  (That a program never pops what is
 * not there is for the daemon's verifier to say; here it pops zeros.)
 *
 * The stack.  Words that a block pushes are in memory only when somebody could
 * look at them there: at the end of the block, before an instruction that
 * names stack words by position, and when an exception is raised.  Until then
 * they are in dp_machine.words, so that what lies above the top of the stack
 * is the same for every executor.
 *
 * The instruction budget is taken block by block: a block is begun only if all
 * that is known of its cost is left.
 */
#define DP_ISA_TABLES
#include "interp.h"

#ifdef __KERNEL__
#include <linux/atomic.h>
#include <linux/kprobes.h>
#include <linux/string.h>

/* Programs run on several CPUs: `inc` and `dec` of each of them count. */
#define dp_add(word, number) atomic64_add(number, (atomic64_t *)(word))
#else
#define dp_add(word, number) \
	((void)__atomic_fetch_add(word, (u64)(number), __ATOMIC_RELAXED))
#endif

#define DP_INDEX (DP_STACK_WORDS - 1)

/* User programs have no address from here on. */
#define DP_ADDRESS_END (1ULL << 56)

/* Up to so many words are popped one by one, more from the stack in memory. */
#define DP_UNROLL 8

/* Bytes of an item: token and count. */
#define DP_PREFIX 3
#define DP_FAULT_ITEM (DP_PREFIX + 8)
#define DP_MEMORY_HEAD (DP_PREFIX + 8)
#define DP_TRACE_HEAD (DP_PREFIX + 4 * 8)
#define DP_TRACE_LEAST (DP_TRACE_HEAD + DP_PREFIX)

#define DP_MAX_NUMBER 0x7fffffffU
#define DP_MAX_LOG 0x10000U
#define DP_MAX_HEAP (1U << 20)

/* Instructions that all probes of a program may reach together, and blocks. */
#define DP_TRAP_FLAG 0x100ULL

/* How the program goes on after an instruction. */
enum dp_step {
	DP_NEXT,	/* with the one behind it */
	DP_JUMP,	/* with the block at dp_machine.next */
	DP_END,
};

/* -- verifier ------------------------------------------------------------ */

static bool dp_bit(const u8 *bits, u32 at)
{
	return bits[at >> 3] & (1U << (at & 7));
}

static void dp_set_bit(u8 *bits, u32 at)
{
	bits[at >> 3] |= 1U << (at & 7);
}

static u64 dp_number(const u8 *at, u32 size)
{
	u64 number = 0;

	memcpy(&number, at, size);
	return number;
}
NOKPROBE_SYMBOL(dp_number);

/* The operand of the instruction at an offset of verified code. */
static u64 dp_operand(const u8 *code, u32 at)
{
	return dp_number(code + at + 1, dp_insns[code[at]].size - 1U);
}
NOKPROBE_SYMBOL(dp_operand);

static bool dp_is_kernel(const struct dp_program *program)
{
	return program->def.modtype != DPROBES_USER;
}
NOKPROBE_SYMBOL(dp_is_kernel);

static bool dp_falls_through(u8 flow)
{
	return flow != DP_FLOW_JUMP && flow != DP_FLOW_RETURN &&
	       flow != DP_FLOW_END;
}

static struct dp_refusal dp_refuse(u32 reason, u32 where)
{
	struct dp_refusal refusal = { reason, where };

	return refusal;
}

/* Byte offset of a field of the header that is out of range, or 0xffffffff. */
static u32 dp_bad_field(const struct dprobes_load *def)
{
	const struct {
		u32 at;
		u32 value;
		u32 low;
		u32 high;
	} fields[] = {
#define DP_FIELD(name, low, high) \
	{ offsetof(struct dprobes_load, name), def->name, low, high }
		DP_FIELD(flags, 0, DPROBES_AUTOSTACKTRACE),
		DP_FIELD(major, 1, 0xffff),
		DP_FIELD(vars, 0, DP_MAX_VARIABLES),
		DP_FIELD(gvars, 0, DP_MAX_VARIABLES),
		DP_FIELD(jmpmax, 0, DP_MAX_NUMBER),
		DP_FIELD(logmax, 0, DP_MAX_LOG),
		DP_FIELD(ex_logmax, 0, DP_MAX_LOG),
		DP_FIELD(code_size, 1, DP_MAX_CODE),
		DP_FIELD(probe_count, 1, DP_MAX_PROBES),
		DP_FIELD(facility_count, 0, DP_MAX_FACILITIES),
		DP_FIELD(name_count, 0, DP_MAX_NAMES),
#undef DP_FIELD
	};
	u32 i;

	for (i = 0; i < ARRAY_SIZE(fields); i++)
		if (fields[i].value < fields[i].low ||
		    fields[i].value > fields[i].high)
			return fields[i].at;
	return ~0U;
}

static bool dp_name_is_good(const struct dprobes_name *name)
{
	u32 i;

	for (i = 0; i < name->size && i < DP_MAX_NAME; i++) {
		u8 c = name->text[i];
		bool letter = (c >= 'a' && c <= 'z') ||
			      (c >= 'A' && c <= 'Z') || c == '_';

		if (!letter && (!i || c < '0' || c > '9'))
			return false;
	}
	return name->size <= DP_MAX_NAME;
}

/**
 * dp_verify_header() - whether the numbers of a program are within their limits
 * @def: the program; its arrays need not be there yet
 *
 * Return: DPROBES_OK, or the first reason against it, and where.
 */
struct dp_refusal dp_verify_header(const struct dprobes_load *def)
{
	u32 at = dp_bad_field(def);

	if (def->modtype != DPROBES_USER && def->modtype != DPROBES_KERNEL &&
	    def->modtype != DPROBES_KMOD)
		return dp_refuse(DPROBES_BAD_MODTYPE, def->modtype);
	if (at != ~0U)
		return dp_refuse(DPROBES_BAD_HEADER, at);
	return dp_refuse(DPROBES_OK, 0);
}

static struct dp_refusal dp_check_tables(const struct dp_program *program)
{
	const struct dprobes_load *def = &program->def;
	struct dp_refusal found = dp_verify_header(def);
	u32 i, before = 0;

	if (found.reason != DPROBES_OK)
		return found;
	for (i = 0; i < def->probe_count; i++) {
		const struct dprobes_probe *probe = &program->probes[i].def;

		if (probe->entry < before || probe->entry >= probe->end ||
		    probe->end > def->code_size || probe->heap > DP_MAX_HEAP ||
		    probe->pass_count > DP_MAX_NUMBER ||
		    probe->max_hits > DP_MAX_NUMBER || !probe->minor)
			return dp_refuse(DPROBES_BAD_PROBE, i);
		before = probe->end;
	}
	for (i = 0; i < def->facility_count; i++)
		if (!program->facilities[i])
			return dp_refuse(DPROBES_BAD_FACILITY, i);
	for (i = 0; i < def->name_count; i++)
		if (!dp_name_is_good(&program->names[i]))
			return dp_refuse(DPROBES_BAD_NAME, i);
	return dp_refuse(DPROBES_OK, 0);
}

/* What a register may not be here; DPROBES_OK: nothing. */
static u32 dp_bad_register(const struct dp_program *program,
			   const struct dp_insn *insn, u64 number)
{
	const struct dp_register *reg;
	u8 may_pop = dp_is_kernel(program) ? DP_REG_POP_KERNEL : DP_REG_POP_USER;

	if (number >= DP_REGISTERS)
		return DPROBES_BAD_OPERAND;
	reg = &dp_registers[number];
	if (reg->flags & DP_REG_FPU)
		return DPROBES_NO_FPU;
	if (reg->flags & DP_REG_KERNEL)
		return dp_is_kernel(program) ? DPROBES_NOT_YET :
					       DPROBES_NOT_KERNEL;
	if ((insn->flags & DP_INSN_WRITES) && !(reg->flags & may_pop))
		return DPROBES_BAD_OPERAND;
	return DPROBES_OK;
}

static u32 dp_bad_operand(const struct dp_program *program,
			  const struct dp_insn *insn, u64 number)
{
	const struct dprobes_load *def = &program->def;
	s64 slot;
	bool good = true;

	switch (insn->operand) {
	case DP_OPERAND_U16:
		if (insn->flags & DP_INSN_LOCALS)
			good = number < def->vars;
		else if (insn->flags & DP_INSN_GLOBALS)
			good = number < def->gvars;
		break;
	case DP_OPERAND_COUNT16:
		good = number >= 1 && number <= DP_STACK_WORDS;
		break;
	case DP_OPERAND_SHIFT:
		good = number < 64;
		break;
	case DP_OPERAND_BIT:
		good = number >= 1 && number <= 64;
		break;
	case DP_OPERAND_SLOT:
		slot = (s16)number;
		good = slot >= -DP_STACK_WORDS && slot < DP_STACK_WORDS;
		break;
	case DP_OPERAND_REGISTER:
		return dp_bad_register(program, insn, number);
	case DP_OPERAND_FACILITY:
		good = number < def->facility_count;
		break;
	case DP_OPERAND_NAME:
		good = number < def->name_count && program->names[number].size;
		break;
	case DP_OPERAND_SYMBOL:
		good = number < def->name_count;
		break;
	default:
		break;
	}
	return good ? DPROBES_OK : DPROBES_BAD_OPERAND;
}

/* What no kernel program can do. */
static u32 dp_bad_in_kernel(const struct dp_program *program, u8 opcode)
{
	const struct dp_insn *insn = &dp_insns[opcode];

	if (insn->flags & DP_INSN_KERNEL)
		return dp_is_kernel(program) ? DPROBES_NOT_YET :
					       DPROBES_NOT_KERNEL;
	if ((insn->flags & DP_INSN_WRITES) && !program->alter)
		return DPROBES_NO_ALTER;
	if (!dp_is_kernel(program))
		return DPROBES_OK;
	if (insn->flags & DP_INSN_HOLDS)
		return DPROBES_NO_HOLD;
	if (opcode == DP_OP_EXIT_FACILITY_ONCE)
		return DPROBES_NOT_YET;
	if (opcode == DP_OP_PUSH_TLS_SYMBOL)
		return DPROBES_NO_TLS;
	if (opcode == DP_OP_VFY_RW)
		return DPROBES_NO_WRITE_CHECK;
	return DPROBES_OK;
}

static struct dp_refusal dp_check_insns(const struct dp_program *program,
					struct dp_scratch *scratch)
{
	const u8 *code = program->code;
	u32 size = program->def.code_size;
	u32 at = 0;

	while (at < size) {
		const struct dp_insn *insn = &dp_insns[code[at]];
		u32 reason;

		if (!insn->size)
			return dp_refuse(DPROBES_UNKNOWN_OPCODE, at);
		if (at + insn->size > size)
			return dp_refuse(DPROBES_CUT_SHORT, at);
		dp_set_bit(scratch->starts, at);
		reason = dp_bad_in_kernel(program, code[at]);
		if (reason == DPROBES_OK)
			reason = dp_bad_operand(program, insn,
						dp_operand(code, at));
		if (reason != DPROBES_OK)
			return dp_refuse(reason, at);
		at += insn->size;
	}
	return dp_refuse(DPROBES_OK, 0);
}

/* A number for the part of the code, in a probe or between two, of an offset. */
static u32 dp_part(const struct dp_program *program, u32 at)
{
	u32 low = 0, high = program->def.probe_count;

	while (low < high) {
		u32 middle = low + (high - low) / 2;

		if (program->probes[middle].def.entry <= at)
			low = middle + 1;
		else
			high = middle;
	}
	if (low && at < program->probes[low - 1].def.end)
		return 2 * low - 1;
	return 2 * low;
}

static struct dp_refusal dp_check_flow(const struct dp_program *program,
				       const struct dp_scratch *scratch)
{
	const u8 *code = program->code;
	u32 size = program->def.code_size;
	u32 at, next, i;

	for (i = 0; i < program->def.probe_count; i++) {
		const struct dprobes_probe *probe = &program->probes[i].def;

		if (!dp_bit(scratch->starts, probe->entry) ||
		    (probe->end < size && !dp_bit(scratch->starts, probe->end)))
			return dp_refuse(DPROBES_BAD_PROBE, i);
	}
	for (at = 0; at < size; at = next) {
		const struct dp_insn *insn = &dp_insns[code[at]];
		u32 part = dp_part(program, at);

		next = at + insn->size;
		if (dp_falls_through(insn->flow) &&
		    (next == size || dp_part(program, next) != part))
			return dp_refuse(DPROBES_RUNS_PAST_END, at);
		if (insn->operand == DP_OPERAND_LABEL) {
			u64 target = dp_operand(code, at);

			if (target >= size ||
			    !dp_bit(scratch->starts, target) ||
			    (insn->flow != DP_FLOW_CALL &&
			     dp_part(program, target) != part))
				return dp_refuse(DPROBES_BAD_JUMP, at);
		}
	}
	return dp_refuse(DPROBES_OK, 0);
}

/**
 * dp_verify() - whether a program can be run
 * @program: all of it but its blocks; the arrays are as long as it says
 * @scratch: memory to work in; any content
 *
 * Return: DPROBES_OK, or the first reason against it, and where.
 */
struct dp_refusal dp_verify(const struct dp_program *program,
			    struct dp_scratch *scratch)
{
	struct dp_refusal found = dp_check_tables(program);

	if (found.reason != DPROBES_OK)
		return found;
	memset(scratch->starts, 0, sizeof(scratch->starts));
	found = dp_check_insns(program, scratch);
	if (found.reason != DPROBES_OK)
		return found;
	return dp_check_flow(program, scratch);
}

/* -- blocks ---------------------------------------------------------------- */

static void dp_reach(struct dp_scratch *scratch, u32 *todo, u32 at)
{
	if (!dp_bit(scratch->reached, at)) {
		dp_set_bit(scratch->reached, at);
		scratch->todo[(*todo)++] = at;
	}
}

static u32 dp_cost(const u8 *code, u32 at)
{
	u8 operand = dp_insns[code[at]].operand;

	if (operand == DP_OPERAND_COUNT8 || operand == DP_OPERAND_COUNT16)
		return 1 + (dp_operand(code, at) >> 3);
	return 1;
}

/* Where the block ends that begins at an offset. */
static struct dp_block dp_block_at(const u8 *code, u32 size,
				   const struct dp_scratch *scratch, u32 at)
{
	struct dp_block block = { at, at, 0 };
	u8 flow;

	do {
		flow = dp_insns[code[block.end]].flow;
		block.cost += dp_cost(code, block.end);
		block.end += dp_insns[code[block.end]].size;
	} while ((flow == DP_FLOW_NEXT || flow == DP_FLOW_HANDLER) &&
		 block.end < size && !dp_bit(scratch->leaders, block.end));
	return block;
}

/**
 * dp_find_blocks() - the basic blocks that a probe can reach
 * @program: verified
 * @probe: which one
 * @scratch: memory to work in; any content
 * @blocks: where they go, in the order of their offsets; NULL: count only
 * @room: how many fit there
 *
 * Return: how many there are.
 */
u32 dp_find_blocks(const struct dp_program *program, u32 probe,
		   struct dp_scratch *scratch, struct dp_block *blocks, u32 room)
{
	const u8 *code = program->code;
	u32 size = program->def.code_size;
	u32 entry = program->probes[probe].def.entry;
	u32 todo = 0, count = 0, at;

	memset(scratch->reached, 0, sizeof(scratch->reached));
	memset(scratch->leaders, 0, sizeof(scratch->leaders));
	dp_set_bit(scratch->leaders, entry);
	dp_reach(scratch, &todo, entry);
	while (todo) {
		const struct dp_insn *insn;
		u32 next;

		at = scratch->todo[--todo];
		insn = &dp_insns[code[at]];
		next = at + insn->size;
		if (insn->operand == DP_OPERAND_LABEL) {
			u32 target = dp_operand(code, at);

			dp_set_bit(scratch->leaders, target);
			dp_reach(scratch, &todo, target);
		}
		if (dp_falls_through(insn->flow))
			dp_reach(scratch, &todo, next);
		if (insn->flow != DP_FLOW_NEXT && insn->flow != DP_FLOW_HANDLER)
			dp_set_bit(scratch->leaders, next);
	}
	for (at = 0; at < size; at++) {
		if (!dp_bit(scratch->reached, at) ||
		    !dp_bit(scratch->leaders, at))
			continue;
		if (blocks && count < room)
			blocks[count] = dp_block_at(code, size, scratch, at);
		count++;
	}
	return count;
}

/* -- buffers --------------------------------------------------------------- */

static u32 dp_heap_most(const struct dp_program *program)
{
	u32 i, most = 0;

	for (i = 0; i < program->def.probe_count; i++)
		if (program->probes[i].def.heap > most)
			most = program->probes[i].def.heap;
	return (most + 7) & ~7U;
}

/* Lay the buffers out from @memory on; returns how many bytes that takes. */
static size_t dp_lay_out(struct dp_buffers *to, const struct dp_program *program,
			 u8 *memory)
{
	u32 logmax = program->def.logmax, ex_logmax = program->def.ex_logmax;
	u32 heap = dp_heap_most(program);
	size_t at = 0;

#define DP_PART(field, bytes) do {			\
		to->field = (void *)(memory + at);	\
		at += ((size_t)(bytes) + 7) & ~(size_t)7; \
	} while (0)
	/* One byte more than fits is read of a string, to see whether it ends. */
	DP_PART(log, logmax + 1);
	DP_PART(starts, (logmax / DP_PREFIX + 1) * sizeof(u16));
	DP_PART(raw, (logmax / 8 + 1) * sizeof(struct dprobes_raw));
	DP_PART(trace, ex_logmax);
	DP_PART(trace_starts, (ex_logmax / DP_TRACE_LEAST + 1) * sizeof(u16));
	DP_PART(heap, 2 * heap);
	DP_PART(heap_blocks, 2 * heap / 8 * sizeof(struct dp_heap_block));
#undef DP_PART
	return at;
}

/**
 * dp_buffers_size() - how many bytes the buffers of a program take
 * @program: verified
 *
 * Return: bytes, for each CPU.
 */
size_t dp_buffers_size(const struct dp_program *program)
{
	struct dp_buffers unused;

	return dp_lay_out(&unused, program, NULL);
}

/**
 * dp_buffers_init() - the buffers of a program for one CPU
 * @buffers: made
 * @program: verified
 * @memory: of dp_buffers_size() bytes, aligned to 8
 */
void dp_buffers_init(struct dp_buffers *buffers,
		     const struct dp_program *program, void *memory)
{
	dp_lay_out(buffers, program, memory);
}

/* -- stack ----------------------------------------------------------------- */

static void dp_store(struct dp_machine *m, s64 position, u64 word)
{
	u32 at = (u64)position & DP_INDEX;

	m->stack[at] = word;
	m->dirty |= 1U << (at / DP_CHUNK);
}
NOKPROBE_SYMBOL(dp_store);

static u64 dp_load(const struct dp_machine *m, s64 position)
{
	return m->stack[(u64)position & DP_INDEX];
}
NOKPROBE_SYMBOL(dp_load);

/* Bring the stack in memory up to date. */
static void dp_flush(struct dp_machine *m)
{
	s64 base = m->depth + m->under;
	u32 i;

	for (i = 0; i < m->count; i++)
		dp_store(m, base + i, m->words[i]);
	m->depth = base + m->count;
	m->under = 0;
	m->count = 0;
}
NOKPROBE_SYMBOL(dp_flush);

static void dp_push(struct dp_machine *m, u64 word)
{
	if (m->count == DP_PENDING)
		dp_flush(m);
	m->words[m->count++] = word;
}
NOKPROBE_SYMBOL(dp_push);

static u64 dp_pop(struct dp_machine *m)
{
	if (m->count)
		return m->words[--m->count];
	return dp_load(m, m->depth + --m->under);
}
NOKPROBE_SYMBOL(dp_pop);

static u64 dp_top(struct dp_machine *m)
{
	u64 word = dp_pop(m);

	dp_push(m, word);
	return word;
}
NOKPROBE_SYMBOL(dp_top);

static void dp_drop(struct dp_machine *m, u32 count)
{
	u32 known = count < m->count ? count : m->count;

	m->count -= known;
	m->under -= count - known;
}
NOKPROBE_SYMBOL(dp_drop);

/* How many words are on the stack. */
static s64 dp_depth(const struct dp_machine *m)
{
	return m->depth + m->under + m->count;
}
NOKPROBE_SYMBOL(dp_depth);

/* -- exceptions ------------------------------------------------------------ */

static u8 *dp_put_prefix(u8 *to, s32 token, u32 count)
{
	to[0] = token;
	to[1] = count;
	to[2] = count >> 8;
	return to + DP_PREFIX;
}
NOKPROBE_SYMBOL(dp_put_prefix);

static u8 *dp_put_word(u8 *to, u64 word)
{
	memcpy(to, &word, sizeof(word));
	return to + sizeof(word);
}
NOKPROBE_SYMBOL(dp_put_word);

/* How many of a range of words exist. */
static u32 dp_shown(const struct dp_range *range, u32 size)
{
	if (range->first >= size)
		return 0;
	if (range->count > size - range->first)
		return size - range->first;
	return range->count;
}
NOKPROBE_SYMBOL(dp_shown);

static u8 *dp_put_variables(u8 *to, s32 token, const u64 *words, u64 first,
			    u32 count)
{
	u32 i;

	to = dp_put_prefix(to, token, count);
	for (i = 0; i < count; i++)
		to = dp_put_word(to, READ_ONCE(words[first + i]));
	return to;
}
NOKPROBE_SYMBOL(dp_put_variables);

/* One frame of a trace at @to, if it fits before @end; else NULL. */
static u8 *dp_put_frame(const struct dp_machine *m, u32 level, u8 *to, u8 *end)
{
	const struct dp_frame *frame = &m->frames[level];
	const struct dp_program *program = m->program;
	u32 pv = frame->pv.count < DP_STACK_WORDS ? frame->pv.count :
						    DP_STACK_WORDS;
	u32 lv = dp_shown(&frame->lv, program->def.vars);
	u32 gv = dp_shown(&frame->gv, READ_ONCE(*program->globals_count));
	u32 i;

	if (2 * 8 + 3 * DP_PREFIX + 8 * (pv + lv + gv) > end - to)
		return NULL;
	to = dp_put_word(to, frame->called);
	to = dp_put_word(to, frame->returns);
	to = dp_put_prefix(to, DP_ITEM_STACK, pv);
	for (i = 0; i < pv; i++)
		to = dp_put_word(to, dp_load(m, frame->pv.first + i));
	to = dp_put_variables(to, DP_ITEM_LOCALS, program->locals,
			      frame->lv.first, lv);
	return dp_put_variables(to, DP_ITEM_GLOBALS, program->globals,
				frame->gv.first, gv);
}
NOKPROBE_SYMBOL(dp_put_frame);

/* Append a stack trace of the last exception, as far as it fits. */
static void dp_append_trace(struct dp_machine *m, u64 handler)
{
	u8 *start = m->buffers->trace + m->out.trace_size;
	u8 *end = m->buffers->trace + m->program->def.ex_logmax;
	u8 *to, *counted, *behind;
	u32 level = m->level + 1, kept = 0;

	if (end - start < DP_TRACE_LEAST)
		return;
	to = dp_put_prefix(start, DP_ITEM_STACK_TRACE, 1);
	to = dp_put_word(to, m->last[0]);
	to = dp_put_word(to, handler);
	to = dp_put_word(to, m->last[1]);
	to = dp_put_word(to, m->last[2]);
	counted = to;
	to += DP_PREFIX;
	while (level--) {
		behind = dp_put_frame(m, level, to, end);
		if (!behind)
			break;
		to = behind;
		kept++;
	}
	dp_put_prefix(counted, DP_ITEM_FRAME, kept);
	m->buffers->trace_starts[m->trace_count++] = m->out.trace_size;
	m->out.trace_size += to - start;
	m->left -= (to - start) >> 6;
}
NOKPROBE_SYMBOL(dp_append_trace);

/* `pop stp`: keep the traces that lie within @length bytes. */
static void dp_cut_trace(struct dp_machine *m, u64 length)
{
	while (m->trace_count && m->out.trace_size > length)
		m->out.trace_size =
			m->buffers->trace_starts[--m->trace_count];
}
NOKPROBE_SYMBOL(dp_cut_trace);

static enum dp_step dp_end(struct dp_machine *m, s32 exit)
{
	m->out.exit = exit;
	return DP_END;
}
NOKPROBE_SYMBOL(dp_end);

static bool dp_raises(const struct dp_machine *m, u64 code)
{
	return code & (m->probe->def.ex_mask | DP_FATAL_EX_MASK);
}
NOKPROBE_SYMBOL(dp_raises);

/* Raise an exception that is not ignored. */
static enum dp_step dp_raise(struct dp_machine *m, u64 code, u64 parm1,
			     u64 parm2)
{
	s32 level = -1;
	struct dp_frame *frame;

	dp_flush(m);
	if (code & m->probe->def.ex_mask)
		for (level = m->level; level >= 0; level--)
			if (m->frames[level].handler != DP_NONE)
				break;
	m->last[0] = code;
	m->last[1] = parm1;
	m->last[2] = parm2;
	if (m->program->def.flags & DPROBES_AUTOSTACKTRACE)
		dp_append_trace(m, level < 0 ? DP_NONE :
					       m->frames[level].handler);
	if (level < 0) {
		memcpy(m->out.exception, m->last, sizeof(m->last));
		return dp_end(m, DP_EXIT_EXCEPTION);
	}
	while (m->level > (u32)level)
		m->sbp = m->frames[m->level--].sbp;
	frame = &m->frames[level];
	m->next = frame->handler;
	frame->handler = DP_NONE;
	dp_store(m, m->depth, parm2);
	dp_store(m, m->depth + 1, parm1);
	dp_store(m, m->depth + 2, code);
	m->depth += 3;
	if (m->depth > DP_STACK_WORDS)
		m->depth &= DP_INDEX;
	return DP_JUMP;
}
NOKPROBE_SYMBOL(dp_raise);

static enum dp_step dp_overflow(struct dp_machine *m)
{
	if (!dp_raises(m, DP_EX_LOG_OVERFLOW))
		return DP_NEXT;
	return dp_raise(m, DP_EX_LOG_OVERFLOW, m->program->def.logmax, 0);
}
NOKPROBE_SYMBOL(dp_overflow);

/* -- log ------------------------------------------------------------------- */

static u32 dp_room(const struct dp_machine *m)
{
	return m->program->def.logmax - m->out.log_size;
}
NOKPROBE_SYMBOL(dp_room);

/* Begin an item; there is room for all of it. */
static u8 *dp_item(struct dp_machine *m)
{
	m->buffers->starts[m->log_count++] = m->out.log_size;
	return m->buffers->log + m->out.log_size;
}
NOKPROBE_SYMBOL(dp_item);

static enum dp_step dp_log_count(struct dp_machine *m, u32 count)
{
	u64 words[DP_UNROLL];
	bool popped = count <= DP_UNROLL;
	u8 *to;
	u32 i;

	if (popped) {
		for (i = 0; i < count; i++)
			words[i] = dp_pop(m);
	} else {
		dp_flush(m);
		dp_drop(m, count);
	}
	if (8 * count > dp_room(m))
		return dp_overflow(m);
	m->buffers->raw[m->out.raw_count].offset = m->out.log_size;
	m->buffers->raw[m->out.raw_count++].words = count;
	to = dp_item(m);
	for (i = 0; i < count; i++)
		to = dp_put_word(to, popped ? words[i] :
					      dp_load(m, m->depth - 1 - i));
	m->out.log_size += 8 * count;
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_log_count);

static bool dp_words_fit(const struct dp_machine *m, u64 count)
{
	return count <= DP_MAX_COUNT && DP_PREFIX + 8 * count <= dp_room(m);
}
NOKPROBE_SYMBOL(dp_words_fit);

static void dp_charge(struct dp_machine *m, u64 amount)
{
	m->left -= amount;
}
NOKPROBE_SYMBOL(dp_charge);

static bool dp_wraps(const struct dp_machine *m)
{
	return m->probe->def.ex_mask & DP_EX_RPN_STACK_WRAP;
}
NOKPROBE_SYMBOL(dp_wraps);

static enum dp_step dp_log_stack(struct dp_machine *m)
{
	u64 count = dp_pop(m), most = m->program->def.logmax >> 3, i;
	u8 *to;

	if (dp_wraps(m) && count > (u64)dp_depth(m)) {
		dp_push(m, count);
		return dp_raise(m, DP_EX_RPN_STACK_WRAP, dp_depth(m), 0);
	}
	dp_flush(m);
	if (m->depth >= 0 && count <= (u64)m->depth)
		m->depth -= count;
	else
		m->depth = ((u64)m->depth - count) & DP_INDEX;
	dp_charge(m, (count < most ? count : most) >> 3);
	if (!dp_words_fit(m, count))
		return dp_overflow(m);
	to = dp_put_prefix(dp_item(m), DP_ITEM_WORDS, count);
	for (i = 0; i < count; i++)
		to = dp_put_word(to, dp_load(m, m->depth + count - 1 - i));
	m->out.log_size += DP_PREFIX + 8 * count;
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_log_stack);

static enum dp_step dp_log_variables(struct dp_machine *m, bool local)
{
	const struct dp_program *program = m->program;
	u64 count = dp_pop(m), index = dp_pop(m);
	u32 size = local ? program->def.vars : program->def.gvars;

	if (count && (index >= size || count > size - index))
		return dp_raise(m, DP_EX_INVALID_OPERAND,
				local ? DP_OPERAND_IS_LOCAL :
					DP_OPERAND_IS_GLOBAL,
				index > size ? index : size);
	dp_charge(m, count >> 3);
	if (!dp_words_fit(m, count))
		return dp_overflow(m);
	dp_put_variables(dp_item(m), local ? DP_ITEM_LOCALS : DP_ITEM_GLOBALS,
			 local ? program->locals : program->globals, index,
			 count);
	m->out.log_size += DP_PREFIX + 8 * count;
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_log_variables);

static enum dp_step dp_log_value(struct dp_machine *m, u8 opcode)
{
	static const struct dprobes_name unnamed;
	const struct dprobes_name *name = &unnamed;
	u32 number = opcode - DP_OP_LOG_I8;
	u64 word = dp_pop(m);
	u8 *to;

	if (number & 1)
		name = &m->program->names[dp_operand(m->program->code, m->pc)];
	if (DP_PREFIX + 1U + 8U + name->size > dp_room(m))
		return dp_overflow(m);
	to = dp_put_prefix(dp_item(m), DP_ITEM_VALUE, name->size);
	*to++ = number >> 1;
	to = dp_put_word(to, word);
	memcpy(to, name->text, name->size);
	m->out.log_size += DP_PREFIX + 1 + 8 + name->size;
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_log_value);

/* As many bytes as can be read from any address on. */
static u32 dp_read(struct dp_machine *m, u64 address, void *to, u64 size)
{
	u64 room = 0 - address;

	if (!dp_is_kernel(m->program)) {
		if (address >= DP_ADDRESS_END)
			return 0;
		room = DP_ADDRESS_END - address;
	}
	if (room && size > room)
		size = room;
	return size ? dp_env_read(m->env, address, to, size) : 0;
}
NOKPROBE_SYMBOL(dp_read);

/* Log @size bytes that lie behind the head of an item, and a fault if any. */
static enum dp_step dp_log_read(struct dp_machine *m, u32 token, u64 address,
				u32 head, u32 size, bool faulted)
{
	u32 room = dp_room(m), item = size || !faulted ? head + size : 0;
	u8 *to = m->buffers->log + m->out.log_size;
	u64 fault = address + size;
	enum dp_step step = DP_NEXT;

	if (item + (faulted ? DP_FAULT_ITEM : 0) > room) {
		step = dp_overflow(m);
		if (step != DP_NEXT)
			return step;
	} else {
		dp_item(m);
		if (item) {
			dp_put_prefix(to, token, size);
			if (head == DP_MEMORY_HEAD)
				dp_put_word(to + DP_PREFIX, address);
			to += item;
		}
		if (faulted) {
			to = dp_put_prefix(to, DP_ITEM_MEMORY_FAULT, 8);
			dp_put_word(to, fault);
			item += DP_FAULT_ITEM;
		}
		m->out.log_size += item;
	}
	return faulted ? dp_raise(m, DP_EX_INVALID_ADDR, fault, 0) : DP_NEXT;
}
NOKPROBE_SYMBOL(dp_log_read);

static void dp_charge_read(struct dp_machine *m, u64 length)
{
	u32 logmax = m->program->def.logmax;

	dp_charge(m, (length < logmax ? length : logmax) >> 6);
}
NOKPROBE_SYMBOL(dp_charge_read);

static enum dp_step dp_log_memory(struct dp_machine *m)
{
	u64 address = dp_pop(m), length = dp_pop(m);
	u8 *to = m->buffers->log + m->out.log_size + DP_MEMORY_HEAD;
	u32 size;

	dp_charge_read(m, length);
	if (length > DP_MAX_COUNT || DP_MEMORY_HEAD + length > dp_room(m))
		return dp_overflow(m);
	size = dp_read(m, address, to, length);
	return dp_log_read(m, DP_ITEM_MEMORY, address, DP_MEMORY_HEAD, size,
			   size < length);
}
NOKPROBE_SYMBOL(dp_log_memory);

static enum dp_step dp_log_string(struct dp_machine *m)
{
	u64 address = dp_pop(m), length = dp_pop(m);
	u8 *to = m->buffers->log + m->out.log_size + DP_PREFIX;
	u32 room = dp_room(m), most, wanted, size, end;

	dp_charge_read(m, length);
	if (room < DP_PREFIX)
		return dp_overflow(m);
	most = room - DP_PREFIX < DP_MAX_COUNT ? room - DP_PREFIX : DP_MAX_COUNT;
	wanted = length < most + 1 ? length : most + 1;
	size = dp_read(m, address, to, wanted);
	for (end = 0; end < size && to[end]; end++)
		;
	if (end == size && size < wanted)
		return dp_log_read(m, DP_ITEM_STRING, address, DP_PREFIX, size,
				   true);
	if (end > most)
		return dp_overflow(m);
	return dp_log_read(m, DP_ITEM_STRING, address, DP_PREFIX, end, false);
}
NOKPROBE_SYMBOL(dp_log_string);

/* `pop lp`: keep the items that lie within @length bytes. */
static void dp_cut_log(struct dp_machine *m, u64 length)
{
	const struct dp_buffers *buffers = m->buffers;

	while (m->log_count && m->out.log_size > length)
		m->out.log_size = buffers->starts[--m->log_count];
	while (m->out.raw_count &&
	       buffers->raw[m->out.raw_count - 1].offset >= m->out.log_size)
		m->out.raw_count--;
}
NOKPROBE_SYMBOL(dp_cut_log);

/* -- heap ------------------------------------------------------------------ */

/* Move what is allocated together, in the order of its handles. */
static void dp_heap_compact(struct dp_machine *m)
{
	struct dp_heap_block *blocks = m->buffers->heap_blocks;
	u8 *heap = m->buffers->heap;
	u32 i, kept = 0, top = 0;

	for (i = 0; i < m->heap_count; i++) {
		struct dp_heap_block block = blocks[i];

		if (!block.live)
			continue;
		memmove(heap + top, heap + block.offset, block.size);
		block.offset = top;
		top += block.size < 8 ? 8 : (block.size + 7) & ~7U;
		blocks[kept++] = block;
	}
	m->heap_count = kept;
	m->heap_top = top;
}
NOKPROBE_SYMBOL(dp_heap_compact);

static enum dp_step dp_malloc(struct dp_machine *m)
{
	u64 size = dp_pop(m);
	u32 cost = size < 8 ? 8 : (size + 7) & ~7ULL;
	struct dp_heap_block *block;

	if (size > m->heap_left || cost > m->heap_left)
		return dp_raise(m, DP_EX_HEAP_NOMEM, size, 0);
	/*
	 * The memory is twice what may be allocated, so that as much was
	 * allocated since as is moved now.
	 */
	if (m->heap_top + cost > 2 * m->probe->def.heap)
		dp_heap_compact(m);
	block = &m->buffers->heap_blocks[m->heap_count++];
	block->handle = ++m->heap_handle;
	block->offset = m->heap_top;
	block->size = size;
	block->live = true;
	memset(m->buffers->heap + m->heap_top, 0, size);
	m->heap_top += cost;
	m->heap_left -= cost;
	dp_charge(m, size >> 6);
	dp_push(m, m->heap_handle);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_malloc);

static struct dp_heap_block *dp_heap_find(struct dp_machine *m, u64 handle)
{
	struct dp_heap_block *blocks = m->buffers->heap_blocks;
	u32 low = 0, high = m->heap_count;

	while (low < high) {
		u32 middle = low + (high - low) / 2;

		if (blocks[middle].handle < handle)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == m->heap_count || blocks[low].handle != handle ||
	    !blocks[low].live)
		return NULL;
	return &blocks[low];
}
NOKPROBE_SYMBOL(dp_heap_find);

static enum dp_step dp_free(struct dp_machine *m)
{
	u64 handle = dp_pop(m);
	struct dp_heap_block *block = dp_heap_find(m, handle);

	if (!block)
		return dp_raise(m, DP_EX_HEAP_INVALID_HANDLE, handle, 0);
	block->live = false;
	m->heap_left += block->size < 8 ? 8 : (block->size + 7) & ~7U;
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_free);

/* Where a run of numbers is in the heap; NULL: an exception, see @step. */
static u8 *dp_heap_place(struct dp_machine *m, u64 handle, u64 offset, u32 size,
			 enum dp_step *step)
{
	struct dp_heap_block *block = dp_heap_find(m, handle);
	u32 code = DP_EX_HEAP_INVALID_HANDLE;

	if (block) {
		if (offset <= block->size && size <= block->size - offset)
			return m->buffers->heap + block->offset + offset;
		code = DP_EX_HEAP_INVALID_OFFSET;
	}
	*step = dp_raise(m, code, handle, offset);
	return NULL;
}
NOKPROBE_SYMBOL(dp_heap_place);

static enum dp_step dp_pushh(struct dp_machine *m, u32 width, u32 count)
{
	u64 offset = dp_pop(m), handle = dp_pop(m);
	enum dp_step step;
	u8 *from;
	u32 i;

	if (count > DP_UNROLL)
		dp_flush(m);
	from = dp_heap_place(m, handle, offset, width * count, &step);
	if (!from)
		return step;
	for (i = count; i--;) {
		u64 word = dp_number(from + i * width, width);

		if (count > DP_UNROLL)
			dp_store(m, m->depth++, word);
		else
			dp_push(m, word);
	}
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_pushh);

static enum dp_step dp_poph(struct dp_machine *m, u32 width, u32 count)
{
	u64 offset = dp_pop(m), handle = dp_pop(m), words[DP_UNROLL];
	bool popped = count <= DP_UNROLL;
	enum dp_step step;
	u8 *to;
	u32 i;

	if (popped) {
		for (i = 0; i < count; i++)
			words[i] = dp_pop(m);
	} else {
		dp_flush(m);
		dp_drop(m, count);
	}
	to = dp_heap_place(m, handle, offset, width * count, &step);
	if (!to)
		return step;
	for (i = 0; i < count; i++) {
		u64 word = popped ? words[i] : dp_load(m, m->depth - 1 - i);

		memcpy(to + i * width, &word, width);
	}
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_poph);

/* -- words ----------------------------------------------------------------- */

static u64 dp_rotate_left(u64 word, u32 count)
{
	return count ? word << count | word >> (64 - count) : word;
}
NOKPROBE_SYMBOL(dp_rotate_left);

static u64 dp_shift(u8 opcode, u64 word, u64 count)
{
	switch (opcode) {
	case DP_OP_ROL:
	case DP_OP_ROL_BITS:
		return dp_rotate_left(word, count & 63);
	case DP_OP_ROR:
	case DP_OP_ROR_BITS:
		return dp_rotate_left(word, (64 - (count & 63)) & 63);
	case DP_OP_SHL:
	case DP_OP_SHL_BITS:
		return count < 64 ? word << count : 0;
	default:
		return count < 64 ? word >> count : 0;
	}
}
NOKPROBE_SYMBOL(dp_shift);

/* Bits are counted from 1; @bit is 1 to 64. */
static u64 dp_spread(u8 opcode, u64 word, u32 bit)
{
	u64 below = (1ULL << (bit - 1)) - 1;
	u64 up_to = below << 1 | 1;
	bool set = word >> (bit - 1) & 1;

	switch (opcode) {
	case DP_OP_PBL:
	case DP_OP_PBL_BIT:
		return set ? word | ~up_to : word & up_to;
	case DP_OP_PBR:
	case DP_OP_PBR_BIT:
		return set ? word | below : word & ~below;
	case DP_OP_PZL:
	case DP_OP_PZL_BIT:
		return word & up_to;
	default:
		return word & ~below;
	}
}
NOKPROBE_SYMBOL(dp_spread);

static enum dp_step dp_divide(struct dp_machine *m, bool is_signed)
{
	u64 divisor = dp_pop(m), dividend = dp_pop(m), quotient, remainder;
	bool negative = is_signed && (s64)dividend < 0;
	bool opposite = is_signed && (s64)(dividend ^ divisor) < 0;

	if (!divisor)
		return dp_raise(m, DP_EX_DIV_BY_ZERO, 0, 0);
	if (negative)
		dividend = 0 - dividend;
	if (is_signed && (s64)divisor < 0)
		divisor = 0 - divisor;
	quotient = dividend / divisor;
	remainder = dividend % divisor;
	dp_push(m, negative ? 0 - remainder : remainder);
	dp_push(m, opposite ? 0 - quotient : quotient);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_divide);

static enum dp_step dp_binary(struct dp_machine *m, u8 opcode)
{
	u64 right = dp_pop(m), left = dp_pop(m), result;

	switch (opcode) {
	case DP_OP_ADD:
		result = left + right;
		break;
	case DP_OP_SUB:
		result = left - right;
		break;
	case DP_OP_MUL:
		result = left * right;
		break;
	case DP_OP_AND:
		result = left & right;
		break;
	case DP_OP_OR:
		result = left | right;
		break;
	default:
		result = left ^ right;
		break;
	}
	dp_push(m, result);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_binary);

static enum dp_step dp_bits(struct dp_machine *m, u8 opcode)
{
	u64 word = dp_pop(m), bit = dp_pop(m);

	if (bit < 1 || bit > 64)
		return dp_raise(m, DP_EX_INVALID_OPERAND, DP_OPERAND_IS_BIT, bit);
	dp_push(m, dp_spread(opcode, word, bit));
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_bits);

/* -- variables ------------------------------------------------------------- */

static void dp_variable(struct dp_machine *m, u32 verb, u64 *word)
{
	switch (verb) {
	case 0:
		dp_push(m, READ_ONCE(*word));
		break;
	case 1:
		WRITE_ONCE(*word, dp_pop(m));
		break;
	case 2:
		WRITE_ONCE(*word, dp_top(m));
		break;
	case 3:
		dp_add(word, 1);
		break;
	default:
		dp_add(word, -1);
		break;
	}
}
NOKPROBE_SYMBOL(dp_variable);

/*
 * push, pop, move, inc, dec: each with an operand, then with the index on the
 * stack; @number counts them from the first.
 */
static enum dp_step dp_variables(struct dp_machine *m, bool local, u32 number)
{
	const struct dp_program *program = m->program;
	u32 size = local ? program->def.vars : program->def.gvars;
	u64 *words = local ? program->locals : program->globals;
	u32 verb = number >> 1;
	u64 index, value = 0;

	if (!(number & 1)) {
		index = dp_operand(program->code, m->pc);
		dp_variable(m, verb, &words[index]);
		return DP_NEXT;
	}
	if (verb == 1)
		value = dp_pop(m);
	index = dp_pop(m);
	if (index >= size)
		return dp_raise(m, DP_EX_INVALID_OPERAND,
				local ? DP_OPERAND_IS_LOCAL :
					DP_OPERAND_IS_GLOBAL, index);
	if (verb == 1)
		dp_push(m, value);
	dp_variable(m, verb, &words[index]);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_variables);

/* -- stack by position ----------------------------------------------------- */

static enum dp_step dp_dup_count(struct dp_machine *m, u32 count)
{
	u64 word = dp_top(m);

	if (count <= DP_UNROLL) {
		while (count--)
			dp_push(m, word);
		return DP_NEXT;
	}
	dp_flush(m);
	while (count--)
		dp_store(m, m->depth++, word);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_dup_count);

static enum dp_step dp_dup(struct dp_machine *m)
{
	u64 word = dp_pop(m), count = dp_pop(m);
	u32 copies = (count & 0xff) + 1, i;

	if (dp_wraps(m) && dp_depth(m) + copies > DP_STACK_WORDS) {
		dp_push(m, count);
		dp_push(m, word);
		return dp_raise(m, DP_EX_RPN_STACK_WRAP, dp_depth(m), 0);
	}
	dp_flush(m);
	for (i = 0; i < copies; i++)
		dp_store(m, m->depth++, word);
	dp_charge(m, copies >> 3);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_dup);

/* The position of a stack word relative to SBP or to TOS. */
static s64 dp_position(const struct dp_machine *m, bool frame, u64 offset)
{
	return (frame ? (u64)m->sbp : (u64)m->depth - 1) + offset;
}
NOKPROBE_SYMBOL(dp_position);

static enum dp_step dp_push_slot(struct dp_machine *m, bool frame, bool popped,
				 u64 offset)
{
	if (popped)
		offset = dp_pop(m);
	dp_flush(m);
	dp_push(m, dp_load(m, dp_position(m, frame, offset)));
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_push_slot);

static enum dp_step dp_copy_slot(struct dp_machine *m, bool frame, bool popped,
				 u64 offset)
{
	u64 word;

	if (popped)
		offset = dp_pop(m);
	word = dp_top(m);
	dp_flush(m);
	dp_store(m, dp_position(m, frame, offset), word);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_copy_slot);

static enum dp_step dp_pop_slot(struct dp_machine *m, bool frame, bool popped,
				u64 offset)
{
	u64 word = dp_pop(m);

	if (popped)
		offset = dp_pop(m);
	dp_push(m, word);
	dp_flush(m);
	dp_store(m, dp_position(m, frame, offset), word);
	dp_drop(m, 1);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_pop_slot);

static enum dp_step dp_slots(struct dp_machine *m, u8 opcode)
{
	u64 offset = (s64)(s16)dp_operand(m->program->code, m->pc);

	switch (opcode) {
	case DP_OP_PUSH_SBP:
	case DP_OP_PUSH_TSP:
		return dp_push_slot(m, opcode == DP_OP_PUSH_SBP, true, 0);
	case DP_OP_PUSH_SBP_SLOT:
	case DP_OP_PUSH_TSP_SLOT:
		return dp_push_slot(m, opcode == DP_OP_PUSH_SBP_SLOT, false,
				    offset);
	case DP_OP_POP_SBP:
	case DP_OP_POP_TSP:
		return dp_pop_slot(m, opcode == DP_OP_POP_SBP, true, 0);
	case DP_OP_POP_SBP_SLOT:
	case DP_OP_POP_TSP_SLOT:
		return dp_pop_slot(m, opcode == DP_OP_POP_SBP_SLOT, false,
				   offset);
	case DP_OP_COPY_SBP:
	case DP_OP_COPY_TSP:
		return dp_copy_slot(m, opcode == DP_OP_COPY_SBP, true, 0);
	case DP_OP_COPY_SBP_SLOT:
	case DP_OP_COPY_TSP_SLOT:
		return dp_copy_slot(m, opcode == DP_OP_COPY_SBP_SLOT, false,
				    offset);
	case DP_OP_SAVE_SBP:
		dp_push(m, m->sbp & DP_INDEX);
		return DP_NEXT;
	case DP_OP_RESTORE_SBP:
		m->sbp = dp_pop(m) & DP_INDEX;
		return DP_NEXT;
	case DP_OP_SAVE_TSP:
		dp_push(m, dp_depth(m) & DP_INDEX);
		return DP_NEXT;
	default:
		offset = dp_pop(m);
		dp_flush(m);
		m->depth = offset & DP_INDEX;
		return DP_NEXT;
	}
}
NOKPROBE_SYMBOL(dp_slots);

/* -- registers, memory, system --------------------------------------------- */

static enum dp_step dp_push_register(struct dp_machine *m, bool task)
{
	const struct dp_register *reg =
		&dp_registers[dp_operand(m->program->code, m->pc)];

	dp_push(m, dp_env_reg(m->env, task, reg->index) & reg->mask);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_push_register);

static enum dp_step dp_pop_register(struct dp_machine *m, bool task)
{
	const struct dp_register *reg =
		&dp_registers[dp_operand(m->program->code, m->pc)];
	u64 mask = reg->mask;

	/* A thread that goes on with it set traps at its next instruction. */
	if (reg->flags & DP_REG_FLAGS)
		mask &= ~DP_TRAP_FLAG;
	dp_env_set_reg(m->env, task, reg->index, dp_pop(m) & mask);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_pop_register);

static enum dp_step dp_push_symbol(struct dp_machine *m, bool tls)
{
	u64 word = m->program->symbols[dp_operand(m->program->code, m->pc)];

	if (tls)
		word += dp_env_reg(m->env, true, DP_REG_FS_BASE);
	dp_push(m, word);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_push_symbol);

static enum dp_step dp_push_memory(struct dp_machine *m, u32 width)
{
	u64 address = dp_pop(m), word = 0;

	if (dp_read(m, address, &word, width) < width)
		return dp_raise(m, DP_EX_INVALID_ADDR, address, 0);
	dp_push(m, word);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_push_memory);

static enum dp_step dp_pop_memory(struct dp_machine *m, u32 width)
{
	u64 word = dp_pop(m), address = dp_pop(m);
	bool user = !dp_is_kernel(m->program);

	if ((user && address >= DP_ADDRESS_END) ||
	    !dp_env_write(m->env, address, &word, width))
		return dp_raise(m, DP_EX_INVALID_ADDR, address, 0);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_pop_memory);

static enum dp_step dp_vfy(struct dp_machine *m, bool write)
{
	u64 address = dp_pop(m);
	u8 byte;
	bool good = dp_read(m, address, &byte, 1) == 1 &&
		    (!write || dp_env_writable(m->env, address));

	dp_push(m, !good);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_vfy);

static enum dp_step dp_push_comm(struct dp_machine *m)
{
	u8 comm[16];

	dp_env_comm(m->env, comm);
	dp_push(m, dp_number(comm + 8, 8));
	dp_push(m, dp_number(comm, 8));
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_push_comm);

static enum dp_step dp_system(struct dp_machine *m, u8 opcode)
{
	enum dp_fact fact;

	switch (opcode) {
	case DP_OP_PUSH_TASK:
		fact = DP_FACT_TASK;
		break;
	case DP_OP_PUSH_PID:
		fact = DP_FACT_PID;
		break;
	case DP_OP_PUSH_TID:
		fact = DP_FACT_TID;
		break;
	case DP_OP_PUSH_UID:
		fact = DP_FACT_UID;
		break;
	case DP_OP_PUSH_GID:
		fact = DP_FACT_GID;
		break;
	case DP_OP_PUSH_PROCID:
		fact = DP_FACT_CPU;
		break;
	default:
		fact = DP_FACT_TIME;
		break;
	}
	dp_push(m, dp_env_fact(m->env, fact));
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_system);

/* -- control --------------------------------------------------------------- */

/* Go on at a block; a jump is counted. */
static enum dp_step dp_jump(struct dp_machine *m, u32 to, bool counted)
{
	if (counted) {
		if (!m->jumps)
			return dp_raise(m, DP_EX_MAX_JMPS,
					m->program->def.jmpmax, 0);
		m->jumps--;
	}
	m->next = to;
	return DP_JUMP;
}
NOKPROBE_SYMBOL(dp_jump);

static bool dp_test(u8 opcode, s64 word)
{
	switch (opcode) {
	case DP_OP_JLT_LABEL:
		return word < 0;
	case DP_OP_JLE_LABEL:
		return word <= 0;
	case DP_OP_JGT_LABEL:
		return word > 0;
	case DP_OP_JGE_LABEL:
		return word >= 0;
	case DP_OP_JZ_LABEL:
		return !word;
	default:
		return word;
	}
}
NOKPROBE_SYMBOL(dp_test);

static enum dp_step dp_branch(struct dp_machine *m, u8 opcode, u32 label)
{
	u64 word = dp_top(m);

	dp_flush(m);
	if (dp_test(opcode, word))
		return dp_jump(m, label, true);
	return dp_jump(m, m->next, false);
}
NOKPROBE_SYMBOL(dp_branch);

static enum dp_step dp_loop(struct dp_machine *m, u32 label)
{
	u64 word;

	if (!m->jumps)
		return dp_raise(m, DP_EX_MAX_JMPS, m->program->def.jmpmax, 0);
	m->jumps--;
	word = dp_pop(m) - 1;
	dp_push(m, word);
	dp_flush(m);
	return dp_jump(m, word ? label : m->next, false);
}
NOKPROBE_SYMBOL(dp_loop);

static enum dp_step dp_call(struct dp_machine *m, u32 label)
{
	struct dp_frame *frame;

	dp_flush(m);
	if (m->level == DP_CALL_FRAMES)
		return dp_raise(m, DP_EX_CALL_STACK_OVERFLOW, label, 0);
	frame = &m->frames[++m->level];
	memset(frame, 0, sizeof(*frame));
	frame->called = label;
	frame->returns = m->next;
	frame->handler = DP_NONE;
	frame->sbp = m->sbp;
	m->sbp = m->depth;
	return dp_jump(m, label, false);
}
NOKPROBE_SYMBOL(dp_call);

static enum dp_step dp_ret(struct dp_machine *m)
{
	struct dp_frame *frame = &m->frames[m->level];

	dp_flush(m);
	if (!m->level)
		return dp_raise(m, DP_EX_CALL_STACK_OVERFLOW, 0, 0);
	m->level--;
	m->sbp = frame->sbp;
	return dp_jump(m, frame->returns, false);
}
NOKPROBE_SYMBOL(dp_ret);

static enum dp_step dp_exit_facility(struct dp_machine *m, u8 opcode)
{
	const struct dp_program *program = m->program;
	u32 index = dp_operand(program->code, m->pc);
	u32 number = program->facilities[index];

	if (program->gone && READ_ONCE(program->gone[index]))
		return dp_raise(m, DP_EX_INVALID_OPERAND,
				DP_OPERAND_IS_FACILITY, number);
	return dp_end(m, opcode == DP_OP_EXIT_FACILITY ? (s32)number :
							 DP_EXIT_DUMP_ONCE);
}
NOKPROBE_SYMBOL(dp_exit_facility);

static enum dp_step dp_abort(struct dp_machine *m)
{
	m->out.log_size = 0;
	m->out.raw_count = 0;
	m->out.trace_size = 0;
	return dp_end(m, DP_EXIT_ABORT);
}
NOKPROBE_SYMBOL(dp_abort);

static enum dp_step dp_rx(struct dp_machine *m)
{
	u64 code = dp_pop(m), parm1 = dp_pop(m), parm2 = dp_pop(m);

	if (!dp_raises(m, code))
		return DP_NEXT;
	return dp_raise(m, code, parm1, parm2);
}
NOKPROBE_SYMBOL(dp_rx);

static void dp_show(struct dp_machine *m, struct dp_range *range)
{
	range->count = dp_pop(m);
	range->first = dp_pop(m);
}
NOKPROBE_SYMBOL(dp_show);

static enum dp_step dp_control(struct dp_machine *m, u8 opcode)
{
	u64 operand = dp_operand(m->program->code, m->pc);

	switch (opcode) {
	case DP_OP_JMP_LABEL:
		dp_flush(m);
		return dp_jump(m, operand, true);
	case DP_OP_LOOP_LABEL:
		return dp_loop(m, operand);
	case DP_OP_CALL_LABEL:
		return dp_call(m, operand);
	case DP_OP_RET:
		return dp_ret(m);
	case DP_OP_ABORT:
		return dp_abort(m);
	case DP_OP_REM:
		return dp_end(m, DP_EXIT_REM);
	case DP_OP_EXIT:
		return dp_end(m, DP_EXIT_EXIT);
	case DP_OP_EXIT_FACILITY:
	case DP_OP_EXIT_FACILITY_ONCE:
		return dp_exit_facility(m, opcode);
	case DP_OP_NOP:
		return DP_NEXT;
	case DP_OP_SUSPEND:
		m->out.suspend = true;
		return DP_NEXT;
	case DP_OP_RESUME:
		m->out.resume = true;
		return DP_NEXT;
	default:
		return dp_branch(m, opcode, operand);
	}
}
NOKPROBE_SYMBOL(dp_control);

/* `log st`: a trace of the last exception, or of none. */
static void dp_log_trace(struct dp_machine *m)
{
	u32 level = m->level + 1;
	u64 handler = DP_NONE;

	dp_flush(m);
	while (level-- && handler == DP_NONE)
		handler = m->frames[level].handler;
	dp_append_trace(m, handler);
}
NOKPROBE_SYMBOL(dp_log_trace);

static enum dp_step dp_exceptions(struct dp_machine *m, u8 opcode)
{
	struct dp_frame *frame = &m->frames[m->level];

	switch (opcode) {
	case DP_OP_SX_LABEL:
		frame->handler = dp_operand(m->program->code, m->pc);
		break;
	case DP_OP_UX:
		frame->handler = DP_NONE;
		break;
	case DP_OP_RX:
		return dp_rx(m);
	case DP_OP_PUSH_X:
		dp_push(m, m->last[2]);
		dp_push(m, m->last[1]);
		dp_push(m, m->last[0]);
		break;
	case DP_OP_LOG_ST:
		dp_log_trace(m);
		break;
	case DP_OP_PURGE_ST:
		dp_cut_trace(m, 0);
		break;
	case DP_OP_TRACE_LV:
		dp_show(m, &frame->lv);
		break;
	case DP_OP_TRACE_GV:
		dp_show(m, &frame->gv);
		break;
	case DP_OP_TRACE_PV:
		dp_show(m, &frame->pv);
		break;
	case DP_OP_PUSH_STP:
		dp_push(m, m->out.trace_size);
		break;
	default:
		dp_cut_trace(m, dp_pop(m));
		break;
	}
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_exceptions);

static enum dp_step dp_logs(struct dp_machine *m, u8 opcode)
{
	u64 operand = dp_operand(m->program->code, m->pc);

	switch (opcode) {
	case DP_OP_SETMIN_INDEX:
		m->out.minor = operand;
		break;
	case DP_OP_SETMIN:
		m->out.minor = dp_pop(m);
		break;
	case DP_OP_SETMAJ_INDEX:
		m->out.major = operand;
		break;
	case DP_OP_SETMAJ:
		m->out.major = dp_pop(m);
		break;
	case DP_OP_LOG_STR:
		return dp_log_string(m);
	case DP_OP_LOG_MRF:
		return dp_log_memory(m);
	case DP_OP_LOG_COUNT:
		return dp_log_count(m, operand);
	case DP_OP_PUSH_LP:
		dp_push(m, m->out.log_size);
		break;
	case DP_OP_PUSH_PLP:
		dp_push(m, m->log_count ?
				   m->buffers->starts[m->log_count - 1] : 0);
		break;
	case DP_OP_POP_LP:
		dp_cut_log(m, dp_pop(m));
		break;
	case DP_OP_LOG:
		return dp_log_stack(m);
	case DP_OP_LOG_LV:
		return dp_log_variables(m, true);
	default:
		return dp_log_variables(m, false);
	}
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_logs);

/* -- running --------------------------------------------------------------- */

static enum dp_step dp_data(struct dp_machine *m, u8 opcode)
{
	u64 operand = dp_operand(m->program->code, m->pc), word;

	switch (opcode) {
	case DP_OP_DIV:
	case DP_OP_IDIV:
		return dp_divide(m, opcode == DP_OP_IDIV);
	case DP_OP_NEG:
		dp_push(m, ~dp_pop(m));
		return DP_NEXT;
	case DP_OP_XCHG:
		word = dp_pop(m);
		operand = dp_pop(m);
		dp_push(m, word);
		dp_push(m, operand);
		return DP_NEXT;
	case DP_OP_DUP_COUNT:
		return dp_dup_count(m, operand);
	case DP_OP_DUP:
		return dp_dup(m);
	case DP_OP_ROS_COUNT:
		dp_drop(m, operand);
		return DP_NEXT;
	case DP_OP_PUSH_R_REGISTER:
	case DP_OP_PUSH_U_REGISTER:
		return dp_push_register(m, opcode == DP_OP_PUSH_U_REGISTER);
	case DP_OP_POP_R_REGISTER:
	case DP_OP_POP_U_REGISTER:
		return dp_pop_register(m, opcode == DP_OP_POP_U_REGISTER);
	case DP_OP_PUSH_WORD:
		dp_push(m, operand);
		return DP_NEXT;
	case DP_OP_PUSH_ADDR_SYMBOL:
	case DP_OP_PUSH_TLS_SYMBOL:
		return dp_push_symbol(m, opcode == DP_OP_PUSH_TLS_SYMBOL);
	case DP_OP_PUSH_WID:
		dp_push(m, -64ULL);
		return DP_NEXT;
	case DP_OP_PUSH_COMM:
		return dp_push_comm(m);
	case DP_OP_VFY_R:
	case DP_OP_VFY_RW:
		return dp_vfy(m, opcode == DP_OP_VFY_RW);
	case DP_OP_MALLOC:
		return dp_malloc(m);
	case DP_OP_FREE:
		return dp_free(m);
	default:
		/* The verifier lets nothing else through. */
		return dp_raise(m, DP_EX_INVALID_OPCODE, opcode, 0);
	}
}
NOKPROBE_SYMBOL(dp_data);

static enum dp_step dp_shift_or_spread(struct dp_machine *m, u8 opcode)
{
	u64 word, operand = dp_operand(m->program->code, m->pc);

	switch (opcode) {
	case DP_OP_ROL:
	case DP_OP_ROR:
	case DP_OP_SHL:
	case DP_OP_SHR:
		word = dp_pop(m);
		dp_push(m, dp_shift(opcode, word, dp_pop(m)));
		return DP_NEXT;
	case DP_OP_PBL:
	case DP_OP_PBR:
	case DP_OP_PZL:
	case DP_OP_PZR:
		return dp_bits(m, opcode);
	case DP_OP_PBL_BIT:
	case DP_OP_PBR_BIT:
	case DP_OP_PZL_BIT:
	case DP_OP_PZR_BIT:
		dp_push(m, dp_spread(opcode, dp_pop(m), operand));
		return DP_NEXT;
	default:
		dp_push(m, dp_shift(opcode, dp_pop(m), operand));
		return DP_NEXT;
	}
}
NOKPROBE_SYMBOL(dp_shift_or_spread);

static enum dp_step dp_one(struct dp_machine *m)
{
	u8 opcode = m->program->code[m->pc];

	switch (opcode) {
	case DP_OP_NOP ... DP_OP_RESUME:
	case DP_OP_EXIT_FACILITY_ONCE:
		return dp_control(m, opcode);
	case DP_OP_SETMIN_INDEX ... DP_OP_LOG_COUNT:
	case DP_OP_PUSH_LP ... DP_OP_POP_LP:
	case DP_OP_LOG ... DP_OP_LOG_GV:
		return dp_logs(m, opcode);
	case DP_OP_PUSH_GV_INDEX ... DP_OP_DEC_GV:
		return dp_variables(m, false, opcode - DP_OP_PUSH_GV_INDEX);
	case DP_OP_PUSH_LV_INDEX ... DP_OP_DEC_LV:
		return dp_variables(m, true, opcode - DP_OP_PUSH_LV_INDEX);
	case DP_OP_ADD ... DP_OP_MUL:
	case DP_OP_AND ... DP_OP_XOR:
		return dp_binary(m, opcode);
	case DP_OP_ROL_BITS ... DP_OP_SHR:
	case DP_OP_PBL ... DP_OP_PBR_BIT:
	case DP_OP_PZL ... DP_OP_PZR_BIT:
		return dp_shift_or_spread(m, opcode);
	case DP_OP_PUSH_MEM_U8 ... DP_OP_PUSH_MEM_U64:
		return dp_push_memory(m, 1U << (opcode - DP_OP_PUSH_MEM_U8));
	case DP_OP_POP_MEM_U8 ... DP_OP_POP_MEM_U64:
		return dp_pop_memory(m, 1U << (opcode - DP_OP_POP_MEM_U8));
	case DP_OP_PUSH_TASK ... DP_OP_PUSH_PROCID:
	case DP_OP_PUSH_TID ... DP_OP_PUSH_TIME:
		return dp_system(m, opcode);
	case DP_OP_SX_LABEL ... DP_OP_PUSH_X:
	case DP_OP_LOG_ST ... DP_OP_TRACE_PV:
	case DP_OP_PUSH_STP:
	case DP_OP_POP_STP:
		return dp_exceptions(m, opcode);
	case DP_OP_PUSH_SBP ... DP_OP_COPY_TSP_SLOT:
	case DP_OP_SAVE_SBP ... DP_OP_COPY_TSP:
		return dp_slots(m, opcode);
	case DP_OP_PUSHH_U8_COUNT ... DP_OP_PUSHH_U64_COUNT:
		return dp_pushh(m, 1U << (opcode - DP_OP_PUSHH_U8_COUNT),
				dp_operand(m->program->code, m->pc));
	case DP_OP_POPH_U8_COUNT ... DP_OP_POPH_U64_COUNT:
		return dp_poph(m, 1U << (opcode - DP_OP_POPH_U8_COUNT),
			       dp_operand(m->program->code, m->pc));
	case DP_OP_LOG_I8 ... DP_OP_LOG_PTR_NAME:
		return dp_log_value(m, opcode);
	default:
		return dp_data(m, opcode);
	}
}
NOKPROBE_SYMBOL(dp_one);

/* Whether an instruction has too few words, or makes too many. */
static bool dp_would_wrap(const struct dp_machine *m)
{
	const struct dp_insn *insn = &dp_insns[m->program->code[m->pc]];
	s64 pops = insn->pops, pushes = insn->pushes, depth = dp_depth(m);

	if (insn->operand == DP_OPERAND_REGISTER) {
		const struct dp_register *reg =
			&dp_registers[dp_operand(m->program->code, m->pc)];

		if (insn->pops_each) {
			pops += reg->words;
		} else {
			pops += reg->takes;
			pushes = reg->words;
		}
	} else if (insn->pops_each || insn->pushes_each) {
		s64 count = dp_operand(m->program->code, m->pc);

		pops += insn->pops_each * count;
		pushes += insn->pushes_each * count;
	}
	if (depth < pops + insn->peeks)
		return true;
	return depth + (insn->pushes < 0 ? 0 : pushes - pops) > DP_STACK_WORDS;
}
NOKPROBE_SYMBOL(dp_would_wrap);

static const struct dp_block *dp_block_of(const struct dp_machine *m, u32 at)
{
	const struct dp_block *blocks = m->program->blocks + m->probe->first;
	u32 low = 0, high = m->probe->count;

	while (low < high) {
		u32 middle = low + (high - low) / 2;

		if (blocks[middle].start < at)
			low = middle + 1;
		else
			high = middle;
	}
	return &blocks[low];
}
NOKPROBE_SYMBOL(dp_block_of);

static void dp_run_blocks(struct dp_machine *m, u32 at)
{
	enum dp_step step = DP_JUMP;
	bool wraps = dp_wraps(m);

	do {
		const struct dp_block *block = dp_block_of(m, at);

		if (m->left < block->cost) {
			dp_end(m, DP_EXIT_BUDGET);
			return;
		}
		m->left -= block->cost;
		do {
			m->pc = at;
			m->next = at + dp_insns[m->program->code[at]].size;
			if (wraps && dp_would_wrap(m))
				step = dp_raise(m, DP_EX_RPN_STACK_WRAP,
						dp_depth(m), 0);
			else
				step = dp_one(m);
			at = m->next;
		} while (step == DP_NEXT && at != block->end);
		if (step == DP_NEXT)
			dp_flush(m);
	} while (step != DP_END);
}
NOKPROBE_SYMBOL(dp_run_blocks);

static void dp_reset(struct dp_machine *m)
{
	struct dp_frame *frame = &m->frames[0];
	u32 i;

	for (i = 0; m->dirty; i++, m->dirty >>= 1)
		if (m->dirty & 1)
			memset(&m->stack[i * DP_CHUNK], 0,
			       DP_CHUNK * sizeof(m->stack[0]));
	m->depth = 0;
	m->sbp = 0;
	m->count = 0;
	m->under = 0;
	m->level = 0;
	memset(frame, 0, sizeof(*frame));
	frame->called = m->probe->def.entry;
	frame->returns = DP_NONE;
	frame->handler = DP_NONE;
	memset(m->last, 0, sizeof(m->last));
	m->jumps = m->program->def.jmpmax;
	m->log_count = 0;
	m->trace_count = 0;
	m->heap_left = m->probe->def.heap;
	m->heap_top = 0;
	m->heap_count = 0;
	m->heap_handle = 0;
	memset(&m->out, 0, sizeof(m->out));
	m->out.major = m->program->def.major;
	m->out.minor = m->probe->def.minor;
}
NOKPROBE_SYMBOL(dp_reset);

/**
 * dp_run() - run a probe's program for one hit
 * @m: the machine of this CPU: all zeros before its first hit
 * @program: verified, its blocks found
 * @probe: which one
 * @buffers: of the program, for this CPU
 * @env: handed on to dp_env_*()
 * @budget: instructions: DP_BUDGET
 *
 * Context: any. Nothing else uses the machine and the buffers meanwhile.
 * @m->out and @buffers have what came of it.
 */
void dp_run(struct dp_machine *m, const struct dp_program *program, u32 probe,
	    struct dp_buffers *buffers, struct dp_env *env, u32 budget)
{
	m->program = program;
	m->probe = &program->probes[probe];
	m->buffers = buffers;
	m->env = env;
	m->left = budget;
	dp_reset(m);
	dp_run_blocks(m, m->probe->def.entry);
}
NOKPROBE_SYMBOL(dp_run);
