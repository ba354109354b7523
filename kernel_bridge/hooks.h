/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hooks: places in the kernel at which other modules hang their exits.
 *
 * A hook is declared by who has the place, and found by its name.  A static
 * one is a statement in the code; while no exit of it is armed it costs one
 * branch that is never taken.  A dynamic one needs no line there: it is any
 * place that a kprobe can have.
 *
 * An exit that is registered is not armed yet.  Exits run in their order, on
 * the CPU that came to the hook, with preemption off: they may not sleep.  A
 * hook that an exit itself comes to, in the same context of that CPU, is passed
 * over and counted (missed).
 *
 * The functions that register, arm and their opposites may sleep.  Nobody else
 * uses the same exit meanwhile.
 */
#ifndef DPROBES_HOOKS_H
#define DPROBES_HOOKS_H

#include <linux/atomic.h>
#include <linux/jump_label.h>
#include <linux/kprobes.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/ptrace.h>

/* Words that a hook hands to its exits. */
#define DPROBES_HOOK_WORDS 6

/* dprobes_hook.flags */
#define DPROBES_HOOK_EXCLUSIVE	0x1	/* it takes one exit */
#define DPROBES_HOOK_RETURNS	0x2	/* exits may have its function return */
#define DPROBES_HOOK_VOID	0x4	/* which then returns no value */

/* dprobes_exit.flags: one place in the order at most, else behind those there */
#define DPROBES_EXIT_FIRST	0x1	/* before all others */
#define DPROBES_EXIT_LIFO	0x2	/* before those there, but FIRST */
#define DPROBES_EXIT_LAST	0x4	/* behind all others */
#define DPROBES_EXIT_PROC	0x8	/* root may arm it in /proc/dprobes/hooks */

/* Why an exit is not registered, beside what kernel functions say anyway. */
#define DPROBES_FIRST_TAKEN	EEXIST
#define DPROBES_LAST_TAKEN	ENOTUNIQ
#define DPROBES_NOT_SHARED	EUSERS	/* the hook is exclusive, and has one */

/* What comes after an exit: what it returns. */
enum dprobes_step {
	DPROBES_RETURN = -1,	/* no further exits, and the function returns */
	DPROBES_CONTINUE,
	DPROBES_TERMINATE,	/* no further exits */
};

/**
 * struct dprobes_event - a hook was come to
 * @words: what a static hook hands on; at the entry of a function its arguments
 * @ip: where
 * @regs: of a dynamic hook: there; else NULL
 * @value: what the function returns, if an exit has it return; 0 before
 */
struct dprobes_event {
	u64 words[DPROBES_HOOK_WORDS];
	u64 ip;
	struct pt_regs *regs;
	u64 value;
};

/**
 * struct dprobes_hook - a hook
 * @name: by which exits find it
 * @owner: the module that declares it
 * @flags: DPROBES_HOOK_*
 * @symbol: of a dynamic one, the function that the place is in; else NULL
 * @offset: of a dynamic one, bytes behind it
 *
 * The rest is not for its owner:
 *
 * @active: of a static one: whether an exit is armed
 * @kprobe: of a dynamic one
 * @list: of all hooks, under dpb_hooks_lock; read under RCU
 * @exits: in their order, under dpb_hooks_lock; read under RCU
 * @armed: how many of them are, under dpb_hooks_lock
 * @number: by which programs call it, 0: not registered
 * @hits: how often somebody came to it while it was active
 * @missed: of these, how often an exit was running there already
 */
struct dprobes_hook {
	const char *name;
	struct module *owner;
	u32 flags;
	const char *symbol;
	u32 offset;
	struct static_key_false active;
	struct kprobe kprobe;
	struct list_head list;
	struct list_head exits;
	u32 armed;
	u32 number;
	atomic64_t hits;
	atomic64_t missed;
};

/**
 * struct dprobes_exit - an exit
 * @name: shown with it; NULL: its address is
 * @owner: the module that has it
 * @handler: called at the hook
 * @flags: DPROBES_EXIT_*
 *
 * The rest is not for its owner:
 *
 * @hook: on which it is registered, under dpb_hooks_lock
 * @list: of @hook
 * @armed_at: from which state of all hooks on it is armed
 * @disarmed_at: from which on it is not
 * @hits: how often it was called
 */
struct dprobes_exit {
	const char *name;
	struct module *owner;
	enum dprobes_step (*handler)(struct dprobes_exit *exit,
				     struct dprobes_event *event);
	u32 flags;
	struct dprobes_hook *hook;
	struct list_head list;
	u64 armed_at;
	u64 disarmed_at;
	atomic64_t hits;
};

/* Define a static hook, whose name is that of the variable. */
#define DPROBES_HOOK(variable, its_flags)		\
	struct dprobes_hook variable = {		\
		.name = #variable,			\
		.owner = THIS_MODULE,			\
		.flags = (its_flags),			\
		.active = STATIC_KEY_FALSE_INIT,	\
	}

/* Define a dynamic hook. */
#define DPROBES_DYNAMIC_HOOK(variable, its_symbol, its_offset, its_flags) \
	struct dprobes_hook variable = {		\
		.name = #variable,			\
		.owner = THIS_MODULE,			\
		.flags = (its_flags),			\
		.symbol = (its_symbol),			\
		.offset = (its_offset),			\
	}

enum dprobes_step dprobes_hook_run(struct dprobes_hook *hook,
				   struct dprobes_event *event);

/*
 * The place of a static hook: DPROBES_AT(hook, words...) in any function,
 * DPROBES_AT_OR_RETURN(hook, type, words...) where an exit may have it return
 * that type, DPROBES_AT_OR_RETURN_VOID(hook, words...) where it has no value.
 */
#define DPROBES_AT(hook, ...) do {					\
	if (static_branch_unlikely(&(hook).active)) {			\
		struct dprobes_event __event = {			\
			.words = { __VA_ARGS__ },			\
		};							\
									\
		dprobes_hook_run(&(hook), &__event);			\
	}								\
} while (0)

#define DPROBES_AT_OR_RETURN(hook, type, ...) do {			\
	if (static_branch_unlikely(&(hook).active)) {			\
		struct dprobes_event __event = {			\
			.words = { __VA_ARGS__ },			\
		};							\
									\
		if (dprobes_hook_run(&(hook), &__event) == DPROBES_RETURN) \
			return (type)__event.value;			\
	}								\
} while (0)

#define DPROBES_AT_OR_RETURN_VOID(hook, ...) do {			\
	if (static_branch_unlikely(&(hook).active)) {			\
		struct dprobes_event __event = {			\
			.words = { __VA_ARGS__ },			\
		};							\
									\
		if (dprobes_hook_run(&(hook), &__event) == DPROBES_RETURN) \
			return;						\
	}								\
} while (0)

int dprobes_hook_register(struct dprobes_hook *hook);
void dprobes_hook_unregister(struct dprobes_hook *hook);

int dprobes_exit_register(const char *hook, struct dprobes_exit *exit);
int dprobes_exit_deregister(struct dprobes_exit *exit);
int dprobes_exits_arm(struct dprobes_exit *const *exits, u32 count);
int dprobes_exits_disarm(struct dprobes_exit *const *exits, u32 count);

static inline int dprobes_exit_arm(struct dprobes_exit *exit)
{
	return dprobes_exits_arm(&exit, 1);
}

static inline int dprobes_exit_disarm(struct dprobes_exit *exit)
{
	return dprobes_exits_disarm(&exit, 1);
}

#endif /* DPROBES_HOOKS_H */
