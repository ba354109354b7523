// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Returns of functions: kretprobes.
 *
 * What the part at a function's entry keeps is in the kernel's record of that
 * call, which is the return's alone.
 */
#include <linux/module.h>

#include "bridge.h"

/* Calls that can be running at once; the kernel counts others as missed. */
#define DPB_CALLS 256

static struct dpb_place *dpb_returning(struct kretprobe_instance *call)
{
	struct kretprobe *kretprobe = get_kretprobe(call);

	/* NULL: it has been taken out since the function was entered. */
	return kretprobe ? container_of(kretprobe, struct dpb_place, kretprobe) :
			   NULL;
}
NOKPROBE_SYMBOL(dpb_returning);

/* Called like a kprobe's handler; not 0: the return is not looked at. */
static int dpb_call_entered(struct kretprobe_instance *call,
			    struct pt_regs *regs)
{
	struct dpb_place *place = dpb_returning(call);

	return !place || !dpb_entered(place, regs, (u64 *)call->data);
}
NOKPROBE_SYMBOL(dpb_call_entered);

/* With preemption off. */
static int dpb_call_returns(struct kretprobe_instance *call,
			    struct pt_regs *regs)
{
	struct dpb_place *place = dpb_returning(call);

	if (place)
		dpb_hit(place, regs, (u64 *)call->data);
	return 0;
}
NOKPROBE_SYMBOL(dpb_call_returns);

/**
 * dpb_return_find() - register a return probe, disabled
 * @place: its symbol is there
 *
 * Return: as dpb_attach().
 */
int dpb_return_find(struct dpb_place *place)
{
	struct kretprobe *kretprobe = &place->kretprobe;
	int error;

	lockdep_assert_held(&place->program->lock);
	memset(kretprobe, 0, sizeof(*kretprobe));
	kretprobe->kp.symbol_name = place->symbol;
	kretprobe->kp.flags = KPROBE_FLAG_DISABLED;
	kretprobe->entry_handler = dpb_call_entered;
	kretprobe->handler = dpb_call_returns;
	kretprobe->data_size = DP_KEPT_WORDS * sizeof(u64);
	kretprobe->maxactive = DPB_CALLS;
	error = dpb_fails() ? -ENOMEM : register_kretprobe(kretprobe);
	/* The arguments are good: it is the place where no probe may be. */
	if (error == -EINVAL)
		return -EADDRNOTAVAIL;
	if (error)
		return error;
	if (within_module((unsigned long)kretprobe->kp.addr, THIS_MODULE)) {
		unregister_kretprobe(kretprobe);
		return -EACCES;
	}
	place->address = (u64)kretprobe->kp.addr;
	return 0;
}

/**
 * dpb_return_enable() - let hits of it come, or unregister it
 * @place: it is registered
 *
 * Return: 0, or as enable_kretprobe().
 */
int dpb_return_enable(struct dpb_place *place)
{
	int error = dpb_fails() ? -ENOMEM : enable_kretprobe(&place->kretprobe);

	lockdep_assert_held(&place->program->lock);
	if (error)
		unregister_kretprobe(&place->kretprobe);
	return error;
}

/**
 * dpb_return_missed() - how many calls the kernel passed over
 * @place: it is registered
 *
 * Return: calls since it was: in the handler of another probe, or while too
 * many others were running.
 */
u64 dpb_return_missed(const struct dpb_place *place)
{
	return (u64)READ_ONCE(place->kretprobe.nmissed) +
	       READ_ONCE(place->kretprobe.kp.nmissed);
}

/**
 * dpb_return_remove() - take it out
 * @place: it is registered
 *
 * Returns when no CPU is in a handler of it.  Functions that are running then
 * return as ever.
 */
void dpb_return_remove(struct dpb_place *place)
{
	lockdep_assert_held(&place->program->lock);
	unregister_kretprobe(&place->kretprobe);
	place->missed += dpb_return_missed(place);
}
