// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Hooks of each kind, and exits that do what the tests want.
 *
 * Written to `run`, one command a write:
 *
 *	add EXIT HOOK FLAGS STEP VALUE	register; STEP and VALUE are what it does
 *	del EXIT			deregister
 *	arm EXITS, disarm EXITS		a mask of exits, as a set
 *	place SYMBOL OFFSET FLAGS	a dynamic hook, dpexits_dynamic
 *	unplace
 *	fire				come to the static hooks; `order` has who ran
 *	value NUMBER, void NUMBER	call the functions that may return
 *	untraced NUMBER			call one that may not by itself
 *
 * Whoever writes to /proc/dpexits comes to the static hooks as well, but beside
 * a command: the parameters of a module have one lock for all.
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/proc_fs.h>
#include <linux/string.h>
#include <linux/timekeeping.h>

#include "hooks.h"

#define EXITS 8

/* Of the words of an event, the one in which exits say that they ran. */
#define SEEN 5

struct tested_exit {
	struct dprobes_exit exit;
	int step;
	s64 value;
	bool gone;
};

/* Commands come one after the other. */
static struct tested_exit exits[EXITS];
static char symbol[64];

/* Of a hit; only one CPU fires where they are looked at. */
static char order[32];
module_param_string(order, order, sizeof(order), 0600);

/* What may not be: a part of a set was seen; an exit ran that was gone. */
static atomic_t torn_count, late_count;
/* Microseconds that an exit takes. */
static int slow;
module_param(slow, int, 0600);

static DPROBES_HOOK(dpexits_plain, 0);
static DPROBES_HOOK(dpexits_second, 0);
static DPROBES_HOOK(dpexits_exclusive, DPROBES_HOOK_EXCLUSIVE);
static DPROBES_HOOK(dpexits_value, DPROBES_HOOK_RETURNS);
static DPROBES_HOOK(dpexits_void, DPROBES_HOOK_RETURNS | DPROBES_HOOK_VOID);
static struct dprobes_hook dpexits_dynamic, dpexits_same;

static struct dprobes_hook *const hooks[] = {
	&dpexits_plain, &dpexits_second, &dpexits_exclusive, &dpexits_value,
	&dpexits_void,
};

int dpexits_return_value(int number);
void dpexits_return_void(int number);
int dpexits_untraced(int number);
static int reached;

/* By the clock: udelay() is far too short where the processor is emulated. */
static void wait(void)
{
	u64 until = ktime_get_mono_fast_ns() + READ_ONCE(slow) * NSEC_PER_USEC;

	while (ktime_get_mono_fast_ns() < until)
		cpu_relax();
}

static enum dprobes_step handle(struct dprobes_exit *exit,
				struct dprobes_event *event)
{
	struct tested_exit *tested = container_of(exit, struct tested_exit,
						  exit);
	u32 which = tested - exits, pair = event->words[SEEN] & 6;
	size_t length = strlen(order);

	wait();
	/* Here: who came to it before it was taken off may be in it still. */
	if (READ_ONCE(tested->gone))
		atomic_inc(&late_count);
	/* The last one sees what the set of 1 and 2 has left. */
	if (exit->flags & DPROBES_EXIT_LAST && pair && pair != 6)
		atomic_inc(&torn_count);
	event->words[SEEN] |= 1U << which;
	if (length + 1 < sizeof(order)) {
		order[length] = '0' + which;
		order[length + 1] = 0;
	}
	/* An exit that comes to a hook. */
	if (tested->value == 77)
		DPROBES_AT(dpexits_second, 1);
	event->value = tested->value;
	return tested->step;
}

noinline int dpexits_return_value(int number)
{
	DPROBES_AT_OR_RETURN(dpexits_value, int, number);
	WRITE_ONCE(reached, reached + 1);
	return number;
}

noinline void dpexits_return_void(int number)
{
	DPROBES_AT_OR_RETURN_VOID(dpexits_void, number);
	WRITE_ONCE(reached, reached + number);
}

/* The function tracer does not call it: a probe in it is a breakpoint. */
noinline notrace int dpexits_untraced(int number)
{
	WRITE_ONCE(reached, reached + 1);
	return number;
}

static int fire(void)
{
	DPROBES_AT(dpexits_plain, 11, 22, 33);
	DPROBES_AT(dpexits_exclusive, 1);
	return 0;
}

static ssize_t fire_beside(struct file *file, const char __user *from,
			   size_t size, loff_t *offset)
{
	fire();
	return size;
}

static const struct proc_ops beside = {
	.proc_write = fire_beside,
};

static int add(u32 which, const char *hook, u32 flags, int step, int value)
{
	struct tested_exit *tested = &exits[which];
	static const char *const names[EXITS] = {
		"zero", "one", "two", "three", "four", "five", "six",
	};

	/* One that is registered is not changed. */
	if (!tested->exit.hook) {
		memset(tested, 0, sizeof(*tested));
		tested->exit.name = names[which];
		tested->exit.owner = THIS_MODULE;
		tested->exit.handler = handle;
		tested->exit.flags = flags;
		tested->step = step;
		tested->value = value;
	}
	return dprobes_exit_register(hook, &tested->exit);
}

static int del(u32 which)
{
	int error = dprobes_exit_deregister(&exits[which].exit);

	WRITE_ONCE(exits[which].gone, true);
	return error;
}

static int arm(u32 mask, bool armed)
{
	struct dprobes_exit *set[EXITS];
	u32 i, count = 0;

	for (i = 0; i < EXITS; i++)
		if (mask & 1U << i)
			set[count++] = &exits[i].exit;
	return armed ? dprobes_exits_arm(set, count) :
		       dprobes_exits_disarm(set, count);
}

static int place(u32 offset, u32 flags)
{
	/* One that is registered is not changed: another one has its name. */
	struct dprobes_hook *hook = dpexits_dynamic.number ? &dpexits_same :
							     &dpexits_dynamic;

	memset(hook, 0, sizeof(*hook));
	hook->name = "dpexits_dynamic";
	hook->owner = THIS_MODULE;
	hook->flags = flags;
	hook->symbol = symbol;
	hook->offset = offset;
	return dprobes_hook_register(hook);
}

static int run(const char *text, const struct kernel_param *param)
{
	char hook[64];
	u32 which, flags;
	int step, value;

	order[0] = 0;
	if (sscanf(text, "add %u %63s %u %d %d", &which, hook, &flags, &step,
		   &value) == 5 && which < EXITS)
		return add(which, hook, flags, step, value);
	if (sscanf(text, "del %u", &which) == 1 && which < EXITS)
		return del(which);
	if (sscanf(text, "arm %u", &which) == 1)
		return arm(which, true);
	if (sscanf(text, "disarm %u", &which) == 1)
		return arm(which, false);
	if (sscanf(text, "place %63s %u %u", symbol, &which, &flags) == 3)
		return place(which, flags);
	if (!strncmp(text, "unplace", 7)) {
		dprobes_hook_unregister(&dpexits_dynamic);
		return 0;
	}
	if (!strncmp(text, "fire", 4))
		return fire();
	if (sscanf(text, "value %d", &value) == 1)
		return dpexits_return_value(value);
	if (sscanf(text, "untraced %d", &value) == 1)
		return dpexits_untraced(value);
	if (sscanf(text, "void %d", &value) == 1) {
		dpexits_return_void(value);
		return 0;
	}
	return -EDOM;
}

static int counts(char *text, const struct kernel_param *param)
{
	return sprintf(text, "torn=%d late=%d reached=%d\n",
		       atomic_read(&torn_count), atomic_read(&late_count),
		       READ_ONCE(reached));
}

static const struct kernel_param_ops ops = {
	.set = run,
	.get = counts,
};
module_param_cb(run, &ops, NULL, 0600);

static void end(void)
{
	u32 i;

	remove_proc_subtree("dpexits", NULL);
	for (i = 0; i < EXITS; i++)
		dprobes_exit_deregister(&exits[i].exit);
	dprobes_hook_unregister(&dpexits_dynamic);
	for (i = 0; i < ARRAY_SIZE(hooks); i++)
		dprobes_hook_unregister(hooks[i]);
}

static int __init begin(void)
{
	u32 i;
	int error = 0;

	for (i = 0; i < ARRAY_SIZE(hooks) && !error; i++)
		error = dprobes_hook_register(hooks[i]);
	if (!error && !proc_create("dpexits", 0200, NULL, &beside))
		error = -ENOMEM;
	if (error)
		end();
	return error;
}

module_init(begin);
module_exit(end);
MODULE_DESCRIPTION("Hooks and exits for the tests of dprobes.ko");
MODULE_LICENSE("GPL");
