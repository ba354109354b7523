// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Arithmetic on words: what needs nothing but the stack.
 */
#include "machine.h"

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

enum dp_step dp_divide(struct dp_machine *m, bool is_signed)
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

enum dp_step dp_binary(struct dp_machine *m, u8 opcode)
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

enum dp_step dp_shift_or_spread(struct dp_machine *m, u8 opcode)
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
