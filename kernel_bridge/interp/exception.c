// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Exceptions: how one is raised, its trace, and the instructions about both.
 */
#include "machine.h"

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

/* Raise an exception that is not ignored. */
enum dp_step dp_raise(struct dp_machine *m, u64 code, u64 parm1,
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
	dp_close_key(m);
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

enum dp_step dp_exceptions(struct dp_machine *m, u8 opcode)
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
