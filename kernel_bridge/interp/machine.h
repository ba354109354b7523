/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the parts of the interpreter have in common.
 *
 * The same files are part of the kernel module and, in user space, of its
 * tests; the instruction table (isa.h) is written from the one that all
 * executors have, and what a program comes to is what Python's executor says.
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
 */
#ifndef DP_MACHINE_H
#define DP_MACHINE_H

#include "interp.h"

#ifdef __KERNEL__
#include <linux/kprobes.h>
#include <linux/string.h>
#endif

#define DP_INDEX (DP_STACK_WORDS - 1)

/* Where the code of a part of a probe begins. */
static __always_inline u32 dp_begin(const struct dprobes_probe *def,
				    enum dp_part part)
{
	return part == DP_AT_HIT && def->split ? def->split : def->entry;
}

/* Up to so many words are popped one by one, more from the stack in memory. */
#define DP_UNROLL 8

/* Bytes of an item: token and count. */
#define DP_PREFIX 3

/* Bytes of a stack trace: its head, and the least that it takes. */
#define DP_TRACE_HEAD (DP_PREFIX + 4 * 8)
#define DP_TRACE_LEAST (DP_TRACE_HEAD + DP_PREFIX)

/* How the program goes on after an instruction. */
enum dp_step {
	DP_NEXT,	/* with the one behind it */
	DP_JUMP,	/* with the block at dp_machine.next */
	DP_END,
};

/* Bytes of a stack before its modules; the least that one without frames has. */
#define DP_STACK_HEAD 3

/* Words that were popped: few are copied, more stay where the stack had them. */
struct dp_popped {
	u64 words[DP_UNROLL];
	bool copied;
};

/* stack.c */
void dp_flush(struct dp_machine *m);
void dp_pop_many(struct dp_machine *m, struct dp_popped *to, u32 count);
enum dp_step dp_dup_count(struct dp_machine *m, u32 count);
enum dp_step dp_dup(struct dp_machine *m);
enum dp_step dp_slots(struct dp_machine *m, u8 opcode);

/* exception.c */
enum dp_step dp_raise(struct dp_machine *m, u64 code, u64 parm1, u64 parm2);
enum dp_step dp_exceptions(struct dp_machine *m, u8 opcode);

/* log.c */
u8 *dp_put_variables(u8 *to, s32 token, const u64 *words, u64 first, u32 count);
enum dp_step dp_log_value(struct dp_machine *m, u8 opcode);
enum dp_step dp_logs(struct dp_machine *m, u8 opcode);
enum dp_step dp_log_kstack(struct dp_machine *m, u32 depth);

/* walk.c */
u32 dp_put_kstack(struct dp_machine *m, u8 *to, u32 room, u32 depth);

/* heap.c */
enum dp_step dp_malloc(struct dp_machine *m);
enum dp_step dp_free(struct dp_machine *m);
enum dp_step dp_pushh(struct dp_machine *m, u32 width, u32 count);
enum dp_step dp_poph(struct dp_machine *m, u32 width, u32 count);

/* words.c */
enum dp_step dp_divide(struct dp_machine *m, bool is_signed);
enum dp_step dp_binary(struct dp_machine *m, u8 opcode);
enum dp_step dp_shift_or_spread(struct dp_machine *m, u8 opcode);

/* map.c */
enum dp_step dp_maps(struct dp_machine *m, u8 opcode);

/* bank.c */
enum dp_value {
	DP_VALUE_GET,
	DP_VALUE_HAS,
	DP_VALUE_SET,
	DP_VALUE_COUNT,
	DP_VALUE_DELETE,
	DP_VALUE_ENTER,
};

/* A key, packed. */
struct dp_key {
	const u8 *bytes;
	u32 size;
};

bool dp_bank_value(const struct dp_map *map, struct dp_bank *bank,
		   struct dp_key key, enum dp_value what, u64 *word);
bool dp_bank_find(const struct dp_map *map, struct dp_bank *bank,
		  struct dp_key key, u32 *number);
u64 *dp_cell(const struct dp_map *map, struct dp_bank *bank, u32 number,
	     u32 cpu);
void dp_cell_begin(const struct dp_map *map, u64 *words);

/* memory.c */
enum dp_step dp_variables(struct dp_machine *m, bool local, u32 number);
enum dp_step dp_push_register(struct dp_machine *m, bool task);
enum dp_step dp_pop_register(struct dp_machine *m, bool task);
enum dp_step dp_push_argument(struct dp_machine *m, u32 number);
enum dp_step dp_kept_word(struct dp_machine *m, u32 number, bool pops);
enum dp_step dp_push_symbol(struct dp_machine *m, bool tls);
u32 dp_read(struct dp_machine *m, u64 address, void *to, u64 size);
enum dp_step dp_push_memory(struct dp_machine *m, u32 width);
enum dp_step dp_pop_memory(struct dp_machine *m, u32 width);
enum dp_step dp_vfy(struct dp_machine *m, bool write);
enum dp_step dp_push_comm(struct dp_machine *m);
enum dp_step dp_callk(struct dp_machine *m);
enum dp_step dp_segment(struct dp_machine *m);
enum dp_step dp_ports(struct dp_machine *m, u8 opcode);
enum dp_step dp_system(struct dp_machine *m, u8 opcode);

static __always_inline u64 dp_number(const u8 *at, u32 size)
{
	u64 number = 0;

	memcpy(&number, at, size);
	return number;
}

/* The operand of the instruction at an offset of verified code. */
static __always_inline u64 dp_operand(const u8 *code, u32 at)
{
	return dp_number(code + at + 1, dp_insns[code[at]].size - 1U);
}

static __always_inline bool dp_is_kernel(const struct dp_program *program)
{
	return program->def.modtype != DPROBES_USER;
}

static __always_inline void dp_store(struct dp_machine *m, s64 position,
				     u64 word)
{
	u32 at = (u64)position & DP_INDEX;

	m->stack[at] = word;
	m->dirty |= 1U << (at / DP_CHUNK);
}

static __always_inline u64 dp_load(const struct dp_machine *m, s64 position)
{
	return m->stack[(u64)position & DP_INDEX];
}

/* One of them, in the order in which they were popped. */
static __always_inline u64 dp_popped_word(const struct dp_machine *m,
					  const struct dp_popped *from, u32 i)
{
	return from->copied ? from->words[i] : dp_load(m, m->depth - 1 - i);
}

static __always_inline void dp_push(struct dp_machine *m, u64 word)
{
	if (m->count == DP_PENDING)
		dp_flush(m);
	m->words[m->count++] = word;
}

static __always_inline u64 dp_pop(struct dp_machine *m)
{
	if (m->count)
		return m->words[--m->count];
	return dp_load(m, m->depth + --m->under);
}

static __always_inline u64 dp_top(struct dp_machine *m)
{
	u64 word = dp_pop(m);

	dp_push(m, word);
	return word;
}

static __always_inline void dp_drop(struct dp_machine *m, u32 count)
{
	u32 known = count < m->count ? count : m->count;

	m->count -= known;
	m->under -= count - known;
}

/* How many words are on the stack. */
static __always_inline s64 dp_depth(const struct dp_machine *m)
{
	return m->depth + m->under + m->count;
}

static __always_inline enum dp_step dp_end(struct dp_machine *m, s32 exit)
{
	m->out.exit = exit;
	return DP_END;
}

static __always_inline void dp_charge(struct dp_machine *m, u64 amount)
{
	m->left -= amount;
}

/* No key is open any more. */
static __always_inline void dp_close_key(struct dp_machine *m)
{
	m->key_size = 0;
	m->key_strings = 0;
}

static __always_inline bool dp_raises(const struct dp_machine *m, u64 code)
{
	return code & (m->probe->def.ex_mask | DP_FATAL_EX_MASK);
}

static __always_inline bool dp_wraps(const struct dp_machine *m)
{
	return m->probe->def.ex_mask & DP_EX_RPN_STACK_WRAP;
}

static __always_inline u8 *dp_put_prefix(u8 *to, s32 token, u32 count)
{
	to[0] = token;
	to[1] = count;
	to[2] = count >> 8;
	return to + DP_PREFIX;
}

static __always_inline u8 *dp_put_word(u8 *to, u64 word)
{
	memcpy(to, &word, sizeof(word));
	return to + sizeof(word);
}

#endif /* DP_MACHINE_H */
