// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The stack of words: as memory, and the instructions that name words by
 * position.
 */
#include "machine.h"

/* Bring the stack in memory up to date. */
void dp_flush(struct dp_machine *m)
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

void dp_pop_many(struct dp_machine *m, struct dp_popped *to, u32 count)
{
	u32 i;

	to->copied = count <= DP_UNROLL;
	if (to->copied) {
		for (i = 0; i < count; i++)
			to->words[i] = dp_pop(m);
	} else {
		dp_flush(m);
		dp_drop(m, count);
	}
}
NOKPROBE_SYMBOL(dp_pop_many);

enum dp_step dp_dup_count(struct dp_machine *m, u32 count)
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

enum dp_step dp_dup(struct dp_machine *m)
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

enum dp_step dp_slots(struct dp_machine *m, u8 opcode)
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
