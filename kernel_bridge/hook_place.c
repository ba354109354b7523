// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Probe programs and hooks: a program is an exit on one, and calls one (callk).
 */
#include <linux/rculist.h>

#include "bridge.h"

static enum dprobes_step dpb_exit_hit(struct dprobes_exit *exit,
				      struct dprobes_event *event)
{
	struct dpb_place *place = container_of(exit, struct dpb_place, exit);

	if (event->regs)
		dpb_hit(place, event->regs, NULL);
	else
		dpb_hit_words(place, event->words, event->ip);
	return DPROBES_CONTINUE;
}
NOKPROBE_SYMBOL(dpb_exit_hit);

/**
 * dpb_name_program() - the name of an exit that is a program
 * @exit: any
 * @name: where it goes
 * @size: bytes there
 *
 * Return: false: it is none.
 */
bool dpb_name_program(const struct dprobes_exit *exit, char *name, size_t size)
{
	const struct dpb_place *place;

	if (exit->handler != dpb_exit_hit)
		return false;
	place = container_of(exit, struct dpb_place, exit);
	snprintf(name, size, "program:%u.%u", place->program->program.def.major,
		 place->program->program.probes[place->index].def.minor);
	return true;
}

/**
 * dpb_exit_add() - register a probe as exit on the hook that it is for
 * @place: the name of the hook is there
 *
 * Return: as dprobes_exit_register().
 */
int dpb_exit_add(struct dpb_place *place)
{
	struct dprobes_exit *exit = &place->exit;
	int error;

	lockdep_assert_held(&place->program->lock);
	memset(exit, 0, sizeof(*exit));
	exit->handler = dpb_exit_hit;
	error = dprobes_exit_register(place->symbol, exit);
	if (error)
		return error;
	/* The hook stays as long as the exit is on it. */
	place->address = exit->hook->symbol ? (u64)exit->hook->kprobe.addr :
					      (u64)exit->hook;
	return 0;
}

/**
 * dpb_exit_enable() - let hits of it come, or take it off again
 * @place: it is registered
 *
 * Return: as dprobes_exit_arm().
 */
int dpb_exit_enable(struct dpb_place *place)
{
	int error = dprobes_exit_arm(&place->exit);

	lockdep_assert_held(&place->program->lock);
	if (error)
		dprobes_exit_deregister(&place->exit);
	return error;
}

/**
 * dpb_exit_remove() - take it off; returns when no CPU is in it
 * @place: it is registered, unless the hook itself was taken away
 */
void dpb_exit_remove(struct dpb_place *place)
{
	lockdep_assert_held(&place->program->lock);
	dprobes_exit_deregister(&place->exit);
}

/**
 * dpb_exit_is_off() - whether the hook was taken away by who had it
 * @place: it was registered
 *
 * Return: as the name says.
 */
bool dpb_exit_is_off(const struct dpb_place *place)
{
	lockdep_assert_held(&place->program->lock);
	return !READ_ONCE(place->exit.hook);
}

bool dp_env_callk(struct dp_env *env, u64 number, const u64 *words, u64 *value)
{
	struct dprobes_event event = {};
	struct dprobes_hook *hook;

	memcpy(event.words, words, sizeof(event.words));
	list_for_each_entry_rcu(hook, &dpb_hooks, list) {
		if (hook->number != number)
			continue;
		dpb_call_hook(hook, &event);
		*value = event.value;
		return true;
	}
	return false;
}
NOKPROBE_SYMBOL(dp_env_callk);
