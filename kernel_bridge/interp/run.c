// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A hit: control, and which function does which instruction.
 *
 * The instruction budget is taken block by block: a block is begun only if all
 * that is known of its cost is left.
 */
#define DP_ISA_TABLES
#include "machine.h"

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
	case DP_OP_PUSH_A_ARGUMENT:
		return dp_push_argument(m, operand);
	case DP_OP_PUSH_E_KEPT:
	case DP_OP_POP_E_KEPT:
		return dp_kept_word(m, operand, opcode == DP_OP_POP_E_KEPT);
	case DP_OP_PUSH_ADDR_SYMBOL:
	case DP_OP_PUSH_TLS_SYMBOL:
		return dp_push_symbol(m, opcode == DP_OP_PUSH_TLS_SYMBOL);
	case DP_OP_LOG_KSTACK:
		return dp_log_kstack(m, DP_USUAL_FRAMES);
	case DP_OP_LOG_KSTACK_DEPTH:
		return dp_log_kstack(m, operand);
	case DP_OP_PUSH_WID:
		dp_push(m, -64ULL);
		return DP_NEXT;
	case DP_OP_PUSH_COMM:
		return dp_push_comm(m);
	case DP_OP_VFY_R:
	case DP_OP_VFY_RW:
		return dp_vfy(m, opcode == DP_OP_VFY_RW);
	case DP_OP_CALLK:
		return dp_callk(m);
	case DP_OP_SEG2LIN:
		return dp_segment(m);
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
	case DP_OP_PUSH_IO_U8 ... DP_OP_POP_IO_U32:
		return dp_ports(m, opcode);
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
	case DP_OP_KEY_COUNT ... DP_OP_MSET_MAP:
	case DP_OP_MDEL_MAP:
	case DP_OP_KEY_KSTACK:
	case DP_OP_KEY_KSTACK_DEPTH:
		return dp_maps(m, opcode);
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
	const struct dp_blocks *part = &m->probe->parts[m->part];
	const struct dp_block *blocks = m->program->blocks + part->first;
	u32 low = 0, high = part->count;

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
	frame->called = dp_begin(&m->probe->def, m->part);
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
	dp_close_key(m);
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
 * @part: of it, which is there; @m->kept and @m->cpu are set
 * @buffers: of the program, for this CPU
 * @env: handed on to dp_env_*()
 * @budget: instructions: DP_BUDGET
 *
 * Context: any. Nothing else uses the machine and the buffers meanwhile.
 * @m->out and @buffers have what came of it.
 */
void dp_run(struct dp_machine *m, const struct dp_program *program, u32 probe,
	    enum dp_part part, struct dp_buffers *buffers, struct dp_env *env,
	    u32 budget)
{
	m->program = program;
	m->probe = &program->probes[probe];
	m->part = part;
	m->buffers = buffers;
	m->env = env;
	m->left = budget;
	dp_reset(m);
	dp_run_blocks(m, dp_begin(&m->probe->def, part));
}
NOKPROBE_SYMBOL(dp_run);
