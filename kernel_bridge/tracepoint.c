// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tracepoints of the kernel itself.
 *
 * Each calls with arguments of its own, as its TP_PROTO has them.  We take as
 * many as a function can have in registers: where there are less, the others
 * are what happens to be there.  The program finds them where a function's
 * arguments are; it has a copy of its own, which nobody looks at after it.
 */
#include <linux/ftrace.h>
#include <linux/tracepoint.h>

#include "bridge.h"

/* What is looked for, and what is found. */
struct dpb_search {
	const char *name;
	struct tracepoint *found;
};

/* In any context. */
static void dpb_tracepoint_hit(void *data, u64 one, u64 two, u64 three,
			       u64 four, u64 five)
{
	const u64 words[DPROBES_HOOK_WORDS] = { one, two, three, four, five };

	/* Kernels from 6.13 on may be preempted in those of system calls. */
	preempt_disable_notrace();
	dpb_hit_words(data, words, CALLER_ADDR0);
	preempt_enable_notrace();
}
NOKPROBE_SYMBOL(dpb_tracepoint_hit);

static void dpb_compare(struct tracepoint *tracepoint, void *data)
{
	struct dpb_search *search = data;

	if (!strcmp(tracepoint->name, search->name))
		search->found = tracepoint;
}

/**
 * dpb_tracepoint_find() - find the tracepoint of a place
 * @place: its name is there
 *
 * Return: 0, -ENOENT.
 */
int dpb_tracepoint_find(struct dpb_place *place)
{
	struct dpb_search search = { .name = place->symbol };

	lockdep_assert_held(&place->program->lock);
	for_each_kernel_tracepoint(dpb_compare, &search);
	if (!search.found)
		return -ENOENT;
	place->tracepoint = search.found;
	place->address = (u64)search.found;
	return 0;
}

/**
 * dpb_tracepoint_enable() - let hits of it come
 * @place: its tracepoint was found
 *
 * Return: 0, -ENOMEM.
 */
int dpb_tracepoint_enable(struct dpb_place *place)
{
	lockdep_assert_held(&place->program->lock);
	if (dpb_fails())
		return -ENOMEM;
	return tracepoint_probe_register(place->tracepoint, dpb_tracepoint_hit,
					 place);
}

/**
 * dpb_tracepoint_disable() - let no more hits of it come
 * @place: it is enabled
 *
 * Some CPU may still be in its handler: dpb_tracepoint_sync() waits for that.
 */
void dpb_tracepoint_disable(struct dpb_place *place)
{
	lockdep_assert_held(&place->program->lock);
	tracepoint_probe_unregister(place->tracepoint, dpb_tracepoint_hit,
				    place);
}

/**
 * dpb_tracepoint_sync() - wait until no CPU is in a handler that was disabled
 */
void dpb_tracepoint_sync(void)
{
	tracepoint_synchronize_unregister();
}
