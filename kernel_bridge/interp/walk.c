// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The stack of the task in the kernel, packed as dprobed/program/user_stack.py
 * says: all its frames are in one module, which has no build-id.
 */
#include "machine.h"

/* Of a frame: the bits of the address, the number of the module, where it is. */
#define DP_FRAME_ADDRESS ((1ULL << 56) - 1)
#define DP_FRAME_KERNEL (1ULL << 56)
#define DP_FRAME_EXACT (1ULL << 63)

/* No build-id, how long the path is, and that. */
static const u8 dp_kernel_module[] = {
	0, 8, 0, '[', 'k', 'e', 'r', 'n', 'e', 'l', ']',
};

/* How a walk ended that was to come to @depth frames. */
static u8 dp_end_of_walk(u32 found, u32 fit, u32 depth)
{
	if (!found)
		return DP_END_NONE;
	if (fit < found && fit < depth)
		return DP_END_ROOM;
	return found > depth ? DP_END_DEPTH : DP_END_WHOLE;
}
NOKPROBE_SYMBOL(dp_end_of_walk);

/* Walk, and pack what fits; returns how many bytes, 0: not one frame does. */
u32 dp_put_kstack(struct dp_machine *m, u8 *to, u32 room, u32 depth)
{
	u32 head = DP_STACK_HEAD + sizeof(dp_kernel_module), found, fit, i;
	u64 frame;

	found = dp_env_stack(m->env, m->walked, depth + 1);
	if (room < (found ? head + 8 : DP_STACK_HEAD))
		return 0;
	fit = found < depth ? found : depth;
	if (found && (room - head) / 8 < fit)
		fit = (room - head) / 8;
	*to++ = dp_end_of_walk(found, fit, depth);
	*to++ = !!fit;
	*to++ = fit;
	if (!fit)
		return DP_STACK_HEAD;
	memcpy(to, dp_kernel_module, sizeof(dp_kernel_module));
	to += sizeof(dp_kernel_module);
	for (i = 0; i < fit; i++) {
		frame = (m->walked[i] & DP_FRAME_ADDRESS) | DP_FRAME_KERNEL;
		to = dp_put_word(to, i ? frame : frame | DP_FRAME_EXACT);
	}
	return head + 8 * fit;
}
NOKPROBE_SYMBOL(dp_put_kstack);
