// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Variables, registers, memory, and facts about the task.
 */
#include "machine.h"

#ifdef __KERNEL__
#include <linux/atomic.h>

/* Programs run on several CPUs: `inc` and `dec` of each of them count. */
#define dp_add(word, number) atomic64_add(number, (atomic64_t *)(word))
#else
#define dp_add(word, number) \
	((void)__atomic_fetch_add(word, (u64)(number), __ATOMIC_RELAXED))
#endif

/* User programs have no address from here on. */
#define DP_ADDRESS_END (1ULL << 56)

/* In the flags: the task traps at its next instruction. */
#define DP_TRAP_FLAG 0x100ULL

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
enum dp_step dp_variables(struct dp_machine *m, bool local, u32 number)
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

/* -- registers, memory, system --------------------------------------------- */

/* One of the processor itself, which may be one of several. */
static enum dp_step dp_push_cpu_register(struct dp_machine *m,
					 const struct dp_register *reg)
{
	u64 taken = reg->takes ? dp_pop(m) : 0, words[4];
	u32 i;

	if (!dp_env_cpu_reg(m->env, reg->index, taken, words))
		return dp_raise(m, DP_EX_INVALID_OPERAND,
				DP_OPERAND_IS_REGISTER, taken);
	for (i = reg->words; i; i--)
		dp_push(m, words[i - 1]);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_push_cpu_register);

enum dp_step dp_push_register(struct dp_machine *m, bool task)
{
	const struct dp_register *reg =
		&dp_registers[dp_operand(m->program->code, m->pc)];

	if (reg->flags & DP_REG_KERNEL)
		return dp_push_cpu_register(m, reg);
	dp_push(m, dp_env_reg(m->env, task, reg->index) & reg->mask);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_push_register);

enum dp_step dp_pop_register(struct dp_machine *m, bool task)
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

/* Where the calling convention has them when a function is entered. */
enum dp_step dp_push_argument(struct dp_machine *m, u32 number)
{
	static const u8 regs[] = { DP_REG_RDI, DP_REG_RSI, DP_REG_RDX,
				   DP_REG_RCX, DP_REG_R8, DP_REG_R9 };
	u64 address, word = 0;

	if (number < ARRAY_SIZE(regs)) {
		dp_push(m, dp_env_reg(m->env, false, regs[number]));
		return DP_NEXT;
	}
	/* The return address is on the top of the stack, they are behind it. */
	address = dp_env_reg(m->env, false, DP_REG_RSP) +
		  8 * (number - ARRAY_SIZE(regs) + 1);
	if (dp_read(m, address, &word, 8) < 8)
		return dp_raise(m, DP_EX_INVALID_ADDR, address, 0);
	dp_push(m, word);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_push_argument);

enum dp_step dp_kept_word(struct dp_machine *m, u32 number, bool pops)
{
	u64 unused = 0, *word = m->kept ? &m->kept[number] : &unused;

	if (pops)
		*word = dp_pop(m);
	else
		dp_push(m, *word);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_kept_word);

enum dp_step dp_push_symbol(struct dp_machine *m, bool tls)
{
	u64 word = m->program->symbols[dp_operand(m->program->code, m->pc)];

	if (tls)
		word += dp_env_reg(m->env, true, DP_REG_FS_BASE);
	dp_push(m, word);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_push_symbol);

/* As many bytes as can be read from any address on. */
u32 dp_read(struct dp_machine *m, u64 address, void *to, u64 size)
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

enum dp_step dp_push_memory(struct dp_machine *m, u32 width)
{
	u64 address = dp_pop(m), word = 0;

	if (dp_read(m, address, &word, width) < width)
		return dp_raise(m, DP_EX_INVALID_ADDR, address, 0);
	dp_push(m, word);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_push_memory);

enum dp_step dp_pop_memory(struct dp_machine *m, u32 width)
{
	u64 word = dp_pop(m), address = dp_pop(m);
	bool user = !dp_is_kernel(m->program);

	if ((user && address >= DP_ADDRESS_END) ||
	    !dp_env_write(m->env, address, &word, width))
		return dp_raise(m, DP_EX_INVALID_ADDR, address, 0);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_pop_memory);

enum dp_step dp_vfy(struct dp_machine *m, bool write)
{
	u64 address = dp_pop(m);
	u8 byte;
	bool good = dp_read(m, address, &byte, 1) == 1 &&
		    (!write || dp_env_writable(m->env, address));

	dp_push(m, !good);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_vfy);

enum dp_step dp_push_comm(struct dp_machine *m)
{
	u8 comm[16];

	dp_env_comm(m->env, comm);
	dp_push(m, dp_number(comm + 8, 8));
	dp_push(m, dp_number(comm, 8));
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_push_comm);

/* `callk`: the hook sees the words below its number; they stay. */
enum dp_step dp_callk(struct dp_machine *m)
{
	u64 words[DP_HOOK_WORDS] = {}, number = dp_pop(m), value = 0;
	s64 i;

	dp_flush(m);
	for (i = 0; i < DP_HOOK_WORDS && i < m->depth; i++)
		words[i] = dp_load(m, m->depth - 1 - i);
	if (!dp_env_callk(m->env, number, words, &value))
		return dp_raise(m, DP_EX_INVALID_OPERAND, DP_OPERAND_IS_HOOK,
				number);
	dp_push(m, value);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_callk);

enum dp_step dp_segment(struct dp_machine *m)
{
	u64 offset = dp_pop(m), selector = dp_pop(m), base;

	if (selector > 0xffff || !dp_env_segment(m->env, selector, &base))
		return dp_raise(m, DP_EX_SEG_FAULT, selector, offset);
	dp_push(m, base + offset);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_segment);

/* `push io` and `pop io`: a port has 16 bits. */
enum dp_step dp_ports(struct dp_machine *m, u8 opcode)
{
	bool pops = opcode >= DP_OP_POP_IO_U8;
	u32 width = 1U << (opcode - (pops ? DP_OP_POP_IO_U8 : DP_OP_PUSH_IO_U8));
	u64 value = pops ? dp_pop(m) : 0, port = dp_pop(m);

	if (port > 0xffff)
		return dp_raise(m, DP_EX_INVALID_OPERAND, DP_OPERAND_IS_PORT,
				port);
	if (pops)
		dp_env_set_port(m->env, port, width, value);
	else
		dp_push(m, dp_env_port(m->env, port, width));
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_ports);

enum dp_step dp_system(struct dp_machine *m, u8 opcode)
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
