// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The verifier of probe programs, and the blocks that the interpreter runs.
 *
 * Each check has one reason (enum dprobes_refusal), and says where it fails.
 */
#include "machine.h"

/* Bytes of the heap of a hit, at most. */
#define DP_MAX_HEAP (1U << 20)
#define DP_MAX_NUMBER 0x7fffffffU
#define DP_MAX_LOG 0x10000U

/* -- verifier ------------------------------------------------------------ */

static bool dp_bit(const u8 *bits, u32 at)
{
	return bits[at >> 3] & (1U << (at & 7));
}

static void dp_set_bit(u8 *bits, u32 at)
{
	bits[at >> 3] |= 1U << (at & 7);
}

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
		DP_FIELD(map_count, 0, DP_MAX_MAPS),
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
		    probe->end > def->code_size ||
		    (probe->split && (probe->split <= probe->entry ||
				      probe->split >= probe->end)) ||
		    probe->heap > DP_MAX_HEAP ||
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
	for (i = 0; i < def->map_count; i++)
		if (!dp_map_is_good(&program->maps[i].def))
			return dp_refuse(DPROBES_BAD_MAP, i);
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
	if (reg->flags & DP_REG_KERNEL && !dp_is_kernel(program))
		return DPROBES_NOT_KERNEL;
	/* It belongs to no task. */
	if (reg->flags & DP_REG_KERNEL &&
	    insn == &dp_insns[DP_OP_PUSH_U_REGISTER])
		return DPROBES_BAD_OPERAND;
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
	case DP_OPERAND_ARGUMENT:
		good = number < 64;
		break;
	case DP_OPERAND_FLOAT:
		/* As the registers that they are in. */
		return DPROBES_NO_FPU;
	case DP_OPERAND_DEPTH:
		good = number >= 1 && number <= DP_MOST_FRAMES;
		break;
	case DP_OPERAND_KEPT:
		good = number < DP_KEPT_WORDS;
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
	case DP_OPERAND_MAP:
		good = number < def->map_count;
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

	if (insn->flags & DP_INSN_KERNEL && !dp_is_kernel(program))
		return DPROBES_NOT_KERNEL;
	if (insn->flags & DP_INSN_USTACK)
		return DPROBES_NO_USTACK;
	if (opcode == DP_OP_KEY_TEXT_COUNT || opcode == DP_OP_PUSH_TEXT_COUNT ||
	    opcode == DP_OP_MLOAD_CELL || opcode == DP_OP_MSTORE_CELL)
		return DPROBES_NOT_YET;
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

/* A number for what an offset is in: a part of a probe, or between two probes. */
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
		return 3 * low - (at < program->probes[low - 1].def.split) - 1;
	return 3 * low;
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
		    !dp_bit(scratch->starts, dp_begin(probe, DP_AT_HIT)) ||
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
	found = dp_check_flow(program, scratch);
	if (found.reason != DPROBES_OK)
		return found;
	return dp_check_keys(program, scratch);
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
 * dp_find_blocks() - the basic blocks that a part of a probe can reach
 * @program: verified
 * @probe: which one
 * @part: which of its parts
 * @scratch: memory to work in; any content
 * @blocks: where they go, in the order of their offsets; NULL: count only
 * @room: how many fit there
 *
 * Return: how many there are, 0: there is no such part.
 */
u32 dp_find_blocks(const struct dp_program *program, u32 probe,
		   enum dp_part part, struct dp_scratch *scratch,
		   struct dp_block *blocks, u32 room)
{
	const struct dprobes_probe *def = &program->probes[probe].def;
	const u8 *code = program->code;
	u32 size = program->def.code_size;
	u32 entry = dp_begin(def, part);
	u32 todo = 0, count = 0, at;

	if (part == DP_AT_ENTRY && !def->split)
		return 0;
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
