// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Registers and memory for the interpreter: what dp_env_*() are in the kernel.
 *
 * No access sleeps, and none faults: what is not there is not read.
 */
#include <linux/cred.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <asm/msr.h>
#include <asm/segment.h>
#include <asm/unwind.h>

#include "bridge.h"

/* From one page, all or nothing. */
static bool dpb_read_page(u64 address, void *to, u32 size)
{
	if (address < TASK_SIZE_MAX)
		return !copy_from_user_nofault(to, (void __user *)address, size);
	return !copy_from_kernel_nofault(to, (void *)address, size);
}
NOKPROBE_SYMBOL(dpb_read_page);

/* Whether a hit has the memory there: of a process none of the kernel. */
static bool dpb_has(const struct dp_env *env, u64 address)
{
	return !env->process || address < TASK_SIZE_MAX;
}
NOKPROBE_SYMBOL(dpb_has);

u32 dp_env_read(struct dp_env *env, u64 address, void *to, u32 size)
{
	u32 done = 0;

	while (done < size && dpb_has(env, address + done)) {
		u32 left = PAGE_SIZE - offset_in_page(address + done);
		u32 part = min(left, size - done);

		if (!dpb_read_page(address + done, to + done, part))
			break;
		done += part;
	}
	return done;
}
NOKPROBE_SYMBOL(dp_env_read);

/* One store, so that nobody sees half of it, and all or nothing is written. */
static bool dpb_write_kernel(void *to, const void *from, u32 size)
{
	u64 before;

	/* Only of addresses that are one can a store be tried. */
	if (copy_from_kernel_nofault(&before, to, size))
		return false;
	pagefault_disable();
	switch (size) {
	case 1:
		__put_kernel_nofault(to, from, u8, faulted);
		break;
	case 2:
		__put_kernel_nofault(to, from, u16, faulted);
		break;
	case 4:
		__put_kernel_nofault(to, from, u32, faulted);
		break;
	default:
		__put_kernel_nofault(to, from, u64, faulted);
		break;
	}
	pagefault_enable();
	return true;
faulted:
	pagefault_enable();
	return false;
}
NOKPROBE_SYMBOL(dpb_write_kernel);

bool dp_env_write(struct dp_env *env, u64 address, const void *from, u32 size)
{
	if (address < TASK_SIZE_MAX)
		return !copy_to_user_nofault((void __user *)address, from, size);
	return !env->process && dpb_write_kernel((void *)address, from, size);
}
NOKPROBE_SYMBOL(dp_env_write);

/* The verifier lets no kernel program through that asks for it. */
bool dp_env_writable(struct dp_env *env, u64 address)
{
	return false;
}
NOKPROBE_SYMBOL(dp_env_writable);

static u64 dpb_selector(u32 index)
{
	u16 selector = 0;

	switch (index) {
	case DP_REG_DS:
		savesegment(ds, selector);
		break;
	case DP_REG_ES:
		savesegment(es, selector);
		break;
	case DP_REG_FS:
		savesegment(fs, selector);
		break;
	default:
		savesegment(gs, selector);
		break;
	}
	return selector;
}
NOKPROBE_SYMBOL(dpb_selector);

static u64 dpb_base(bool task, u32 index)
{
	u64 base;

	if (index == DP_REG_FS_BASE)
		rdmsrl(MSR_FS_BASE, base);
	else if (task)
		rdmsrl(MSR_KERNEL_GS_BASE, base);
	else
		rdmsrl(MSR_GS_BASE, base);
	return base;
}
NOKPROBE_SYMBOL(dpb_base);

/* Where the registers are in struct pt_regs, in the order of enum dp_reg. */
static const u16 dpb_offsets[] = {
#define DPB_AT(name) offsetof(struct pt_regs, name)
	DPB_AT(r15), DPB_AT(r14), DPB_AT(r13), DPB_AT(r12), DPB_AT(bp),
	DPB_AT(bx), DPB_AT(r11), DPB_AT(r10), DPB_AT(r9), DPB_AT(r8),
	DPB_AT(ax), DPB_AT(cx), DPB_AT(dx), DPB_AT(si), DPB_AT(di),
	DPB_AT(orig_ax), DPB_AT(ip), DPB_AT(cs), DPB_AT(flags), DPB_AT(sp),
	DPB_AT(ss),
#undef DPB_AT
};

u64 dp_env_reg(struct dp_env *env, bool task, u32 index)
{
	const struct pt_regs *regs = env->regs;

	/* A kernel thread has no user mode. */
	if (task && !current->mm)
		return 0;
	if (task)
		regs = task_pt_regs(current);
	if (index < ARRAY_SIZE(dpb_offsets))
		return *(const u64 *)((const u8 *)regs + dpb_offsets[index]);
	if (index == DP_REG_FS_BASE || index == DP_REG_GS_BASE)
		return dpb_base(task, index);
	return dpb_selector(index);
}
NOKPROBE_SYMBOL(dp_env_reg);

void dp_env_set_reg(struct dp_env *env, bool task, u32 index, u64 value)
{
	struct pt_regs *regs = env->regs;

	if (task && !current->mm)
		return;
	if (task)
		regs = task_pt_regs(current);
	/* The others are none that a program may alter. */
	if (index < ARRAY_SIZE(dpb_offsets))
		*(u64 *)((u8 *)regs + dpb_offsets[index]) = value;
}
NOKPROBE_SYMBOL(dp_env_set_reg);

u64 dp_env_fact(struct dp_env *env, enum dp_fact fact)
{
	switch (fact) {
	case DP_FACT_TASK:
		return (u64)current;
	case DP_FACT_PID:
		return task_tgid_nr(current);
	case DP_FACT_TID:
		return task_pid_nr(current);
	case DP_FACT_UID:
		return from_kuid(&init_user_ns, current_uid());
	case DP_FACT_GID:
		return from_kgid(&init_user_ns, current_gid());
	case DP_FACT_CPU:
		return raw_smp_processor_id();
	default:
		return ktime_get_mono_fast_ns();
	}
}
NOKPROBE_SYMBOL(dp_env_fact);

u32 dp_env_stack(struct dp_env *env, u64 *frames, u32 most)
{
	struct pt_regs *regs = env->has_registers ? env->regs : NULL;
	struct unwind_state state;
	unsigned long address;
	u32 count = 0;

	/* A process that executes a file has no place in the kernel. */
	if (regs && user_mode(regs))
		return 0;
	if (regs)
		frames[count++] = regs->ip;
	for (unwind_start(&state, current, regs, NULL);
	     count < most && !unwind_done(&state); unwind_next_frame(&state)) {
		address = unwind_get_return_address(&state);
		if (!address)
			break;
		if (!count && within_module(address, THIS_MODULE))
			continue;
		frames[count++] = address;
	}
	return count;
}
NOKPROBE_SYMBOL(dp_env_stack);

void dp_env_comm(struct dp_env *env, u8 *comm)
{
	/* Who sets it at the same time makes it torn, but never longer. */
	memcpy(comm, current->comm, TASK_COMM_LEN);
}
NOKPROBE_SYMBOL(dp_env_comm);
