// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Data breakpoints: the debug registers of all CPUs, through perf.
 *
 * The kernel lets a breakpoint be nowhere in what it needs to serve one, and
 * has them off while it does.  So no hit of one comes inside of another.
 */
#include <linux/hw_breakpoint.h>
#include <linux/module.h>

#include "bridge.h"

/* Called like an NMI's handler. */
static void dpb_watch_hit(struct perf_event *event,
			  struct perf_sample_data *data, struct pt_regs *regs)
{
	struct dpb_place *place = event->overflow_handler_context;

	atomic64_inc(&place->handled);
	dpb_hit(place, regs, NULL);
}
NOKPROBE_SYMBOL(dpb_watch_hit);

static u32 dpb_watch_type(u32 kind)
{
	switch (kind) {
	case DPROBES_WATCH_X:
		return HW_BREAKPOINT_X;
	case DPROBES_WATCH_W:
		return HW_BREAKPOINT_W;
	default:
		return HW_BREAKPOINT_RW;
	}
}

/**
 * dpb_watch() - register a data breakpoint on all CPUs, disabled
 * @place: its kind, address and length are there
 *
 * Return: as dpb_attach().
 */
int dpb_watch(struct dpb_place *place)
{
	struct perf_event * __percpu *events;
	struct perf_event_attr attr;
	int error;

	lockdep_assert_held(&place->program->lock);
	if (within_module(place->address, THIS_MODULE) ||
	    within_module(place->address + place->length - 1, THIS_MODULE))
		return -EACCES;
	hw_breakpoint_init(&attr);
	attr.bp_addr = place->address;
	attr.bp_type = dpb_watch_type(place->kind);
	/* The kernel wants it so where code is executed: the manuals say 1. */
	attr.bp_len = place->kind == DPROBES_WATCH_X ? sizeof(long) :
						       place->length;
	attr.disabled = 1;
	if (dpb_fails())
		return -ENOMEM;
	events = register_wide_hw_breakpoint(&attr, dpb_watch_hit, place);
	error = PTR_ERR_OR_ZERO((void __force *)events);
	/* The arguments are good: it is the place. */
	if (error == -EINVAL)
		return -EADDRNOTAVAIL;
	if (error)
		return error;
	place->watch = events;
	return 0;
}

/**
 * dpb_watch_enable() - let hits of it come
 * @place: it is registered
 */
void dpb_watch_enable(struct dpb_place *place)
{
	int cpu;

	lockdep_assert_held(&place->program->lock);
	for_each_possible_cpu(cpu)
		if (*per_cpu_ptr(place->watch, cpu))
			perf_event_enable(*per_cpu_ptr(place->watch, cpu));
}

/**
 * dpb_watch_disable() - let no more hits of it come
 * @place: it is registered
 */
void dpb_watch_disable(struct dpb_place *place)
{
	int cpu;

	lockdep_assert_held(&place->program->lock);
	for_each_possible_cpu(cpu)
		if (*per_cpu_ptr(place->watch, cpu))
			perf_event_disable(*per_cpu_ptr(place->watch, cpu));
}

/**
 * dpb_watch_missed() - how many hits were kept from us
 * @place: it is registered
 *
 * The kernel holds back what comes too often (perf_event_max_sample_rate), and
 * counts it all the same.
 *
 * Return: hits since it was registered; while some come, a few too small.
 */
u64 dpb_watch_missed(struct dpb_place *place)
{
	u64 count = 0, handled, enabled, running;
	int cpu;

	lockdep_assert_held(&place->program->lock);
	for_each_possible_cpu(cpu)
		if (*per_cpu_ptr(place->watch, cpu))
			count += perf_event_read_value(*per_cpu_ptr(place->watch,
								    cpu),
						       &enabled, &running);
	/* After the counts: what was counted is handled by now. */
	handled = atomic64_read(&place->handled);
	return count > handled ? count - handled : 0;
}

/**
 * dpb_watch_free() - unregister it
 * @place: it is registered
 *
 * Returns when no CPU is in its handler: each CPU is interrupted to clear its
 * register, and none can be while it serves a breakpoint.
 */
void dpb_watch_free(struct dpb_place *place)
{
	lockdep_assert_held(&place->program->lock);
	unregister_wide_hw_breakpoint(place->watch);
	place->watch = NULL;
}
