// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The log of a hit: its items, and the instructions that append to it.
 */
#include "machine.h"

/* Bytes of an item that says where memory could not be read. */
#define DP_FAULT_ITEM (DP_PREFIX + 8)

/* Bytes before the memory of an item. */
#define DP_MEMORY_HEAD (DP_PREFIX + 8)

static enum dp_step dp_overflow(struct dp_machine *m)
{
	if (!dp_raises(m, DP_EX_LOG_OVERFLOW))
		return DP_NEXT;
	return dp_raise(m, DP_EX_LOG_OVERFLOW, m->program->def.logmax, 0);
}
NOKPROBE_SYMBOL(dp_overflow);

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

u8 *dp_put_variables(u8 *to, s32 token, const u64 *words, u64 first,
		     u32 count)
{
	u32 i;

	to = dp_put_prefix(to, token, count);
	for (i = 0; i < count; i++)
		to = dp_put_word(to, READ_ONCE(words[first + i]));
	return to;
}
NOKPROBE_SYMBOL(dp_put_variables);

static enum dp_step dp_log_count(struct dp_machine *m, u32 count)
{
	struct dp_popped popped;
	u8 *to;
	u32 i;

	dp_pop_many(m, &popped, count);
	if (8 * count > dp_room(m))
		return dp_overflow(m);
	m->buffers->raw[m->out.raw_count].offset = m->out.log_size;
	m->buffers->raw[m->out.raw_count++].words = count;
	to = dp_item(m);
	for (i = 0; i < count; i++)
		to = dp_put_word(to, dp_popped_word(m, &popped, i));
	m->out.log_size += 8 * count;
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_log_count);

static bool dp_words_fit(const struct dp_machine *m, u64 count)
{
	return count <= DP_MAX_COUNT && DP_PREFIX + 8 * count <= dp_room(m);
}
NOKPROBE_SYMBOL(dp_words_fit);

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

enum dp_step dp_log_value(struct dp_machine *m, u8 opcode)
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

enum dp_step dp_log_kstack(struct dp_machine *m, u32 depth)
{
	u8 *to = m->buffers->log + m->out.log_size;
	u32 room = dp_room(m), size = 0;

	dp_charge(m, DP_FRAME_COST * depth);
	if (room > DP_PREFIX)
		size = dp_put_kstack(m, to + DP_PREFIX, room - DP_PREFIX, depth);
	if (!size)
		return dp_overflow(m);
	dp_item(m);
	dp_put_prefix(to, DP_ITEM_USER_STACK, size);
	m->out.log_size += DP_PREFIX + size;
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_log_kstack);

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

enum dp_step dp_logs(struct dp_machine *m, u8 opcode)
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
