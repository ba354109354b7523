// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Hooks and their exits; see hooks.h.
 *
 * The state of all hooks has a number, dpb_state.  Who comes to a hook reads it
 * once, and calls the exits that are armed in that state.  So exits that are
 * armed in the same state are seen together or not at all, on any hook and from
 * any CPU.  Between two changes of one exit no CPU is left that has read an
 * older state: disarming waits for them.
 */
#include <linux/linkage.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/objtool.h>
#include <linux/percpu.h>
#include <linux/rculist.h>
#include <linux/string.h>

#include "bridge.h"

/* Protects all that is registered, and the changes of dpb_state. */
DEFINE_MUTEX(dpb_hooks_lock);
LIST_HEAD(dpb_hooks);
static u32 dpb_last_number;
static u64 dpb_state;

/* Whether an exit runs: of each context of a CPU, by that only. */
static DEFINE_PER_CPU(u32[4], dpb_in_exits);

/* -- a hit ----------------------------------------------------------------- */

static bool dpb_is_armed_in(const struct dprobes_exit *exit, u64 state)
{
	/* Pairs with dpb_set_armed(): with its end the beginning is seen. */
	u64 end = smp_load_acquire(&exit->disarmed_at);

	return READ_ONCE(exit->armed_at) <= state && state < end;
}
NOKPROBE_SYMBOL(dpb_is_armed_in);

static enum dprobes_step dpb_run_exits(struct dprobes_hook *hook,
				       struct dprobes_event *event)
{
	/* Pairs with dpb_next_state(): what belongs to it is seen. */
	u64 state = smp_load_acquire(&dpb_state);
	struct dprobes_exit *exit;

	list_for_each_entry_rcu(exit, &hook->exits, list) {
		enum dprobes_step step;

		if (!dpb_is_armed_in(exit, state))
			continue;
		atomic64_inc(&exit->hits);
		step = exit->handler(exit, event);
		if (step == DPROBES_RETURN && hook->flags & DPROBES_HOOK_RETURNS)
			return step;
		if (step != DPROBES_CONTINUE)
			return DPROBES_TERMINATE;
	}
	return DPROBES_CONTINUE;
}
NOKPROBE_SYMBOL(dpb_run_exits);

static u32 *dpb_exits_running(void)
{
	return this_cpu_ptr(&dpb_in_exits[interrupt_context_level()]);
}
NOKPROBE_SYMBOL(dpb_exits_running);

/**
 * dpb_call_hook() - call the exits of a hook that are armed, in one of another
 * @hook: it is registered
 * @event: what they are handed
 *
 * Context: preemption off.
 * Return: as dprobes_hook_run().
 */
enum dprobes_step dpb_call_hook(struct dprobes_hook *hook,
				struct dprobes_event *event)
{
	u32 *running = dpb_exits_running();
	enum dprobes_step step;

	lockdep_assert_preemption_disabled();
	atomic64_inc(&hook->hits);
	++*running;
	barrier();
	step = dpb_run_exits(hook, event);
	barrier();
	--*running;
	return step;
}
NOKPROBE_SYMBOL(dpb_call_hook);

/**
 * dprobes_hook_run() - call the exits of a hook that are armed
 * @hook: it is registered
 * @event: what they are handed
 *
 * Context: any.
 * Return: DPROBES_RETURN: the function has to return, with @event->value.
 */
enum dprobes_step dprobes_hook_run(struct dprobes_hook *hook,
				   struct dprobes_event *event)
{
	enum dprobes_step step = DPROBES_CONTINUE;

	if (!event->regs)
		event->ip = _RET_IP_;
	preempt_disable_notrace();
	if (*dpb_exits_running()) {
		atomic64_inc(&hook->hits);
		atomic64_inc(&hook->missed);
	} else {
		step = dpb_call_hook(hook, event);
	}
	preempt_enable_notrace();
	return step;
}
EXPORT_SYMBOL_GPL(dprobes_hook_run);
NOKPROBE_SYMBOL(dprobes_hook_run);

/* What a function is sent to that has to return: it does nothing else. */
asmlinkage void dpb_just_return(void);
asm(".pushsection .text\n"
	".type dpb_just_return, @function\n"
	"dpb_just_return:\n"
	ANNOTATE_NOENDBR
	ASM_RET
	".size dpb_just_return, .-dpb_just_return\n"
	".popsection\n");
NOKPROBE_SYMBOL(dpb_just_return);

static int dpb_hook_kprobe_hit(struct kprobe *kprobe, struct pt_regs *regs)
{
	struct dprobes_hook *hook = container_of(kprobe, struct dprobes_hook,
						 kprobe);
	unsigned long behind = regs->ip;
	struct dprobes_event event = {
		.words = { regs->di, regs->si, regs->dx, regs->cx, regs->r8,
			   regs->r9 },
		.ip = (unsigned long)kprobe->addr,
		.regs = regs,
	};
	enum dprobes_step step;

	/* The kernel has it behind the breakpoint, and wants it back so. */
	regs->ip = event.ip;
	step = dprobes_hook_run(hook, &event);
	regs->ip = behind;
	if (step != DPROBES_RETURN)
		return 0;
	if (!(hook->flags & DPROBES_HOOK_VOID))
		regs->ax = event.value;
	regs->ip = (unsigned long)dpb_just_return;
	return 1;
}
NOKPROBE_SYMBOL(dpb_hook_kprobe_hit);

/* With it the kernel makes no jump of the breakpoint: that knows no other way. */
static void dpb_hook_kprobe_after(struct kprobe *kprobe, struct pt_regs *regs,
				  unsigned long flags)
{
}
NOKPROBE_SYMBOL(dpb_hook_kprobe_after);

/* -- arming ---------------------------------------------------------------- */

bool dpb_is_armed(const struct dprobes_exit *exit)
{
	lockdep_assert_held(&dpb_hooks_lock);
	return exit->disarmed_at == U64_MAX;
}

/* Let who comes to it in @state and later call it. */
static void dpb_set_armed(struct dprobes_exit *exit, u64 state)
{
	lockdep_assert_held(&dpb_hooks_lock);
	WRITE_ONCE(exit->armed_at, state);
	/* Pairs with dpb_is_armed_in(). */
	smp_store_release(&exit->disarmed_at, U64_MAX);
}

/* All that was prepared for it holds from now on. */
static void dpb_next_state(void)
{
	lockdep_assert_held(&dpb_hooks_lock);
	/* Pairs with dpb_run_exits(). */
	smp_store_release(&dpb_state, dpb_state + 1);
}

/* One more of its exits is armed. */
static int dpb_use(struct dprobes_hook *hook)
{
	int error = 0;

	lockdep_assert_held(&dpb_hooks_lock);
	if (!hook->armed && hook->symbol)
		error = dpb_fails() ? -ENOMEM : enable_kprobe(&hook->kprobe);
	else if (!hook->armed)
		static_branch_enable(&hook->active);
	if (!error)
		hook->armed++;
	/* Its module has gone. */
	return error == -EINVAL ? -ENODEV : error;
}

/* One less is. */
static void dpb_disuse(struct dprobes_hook *hook)
{
	lockdep_assert_held(&dpb_hooks_lock);
	if (--hook->armed)
		return;
	if (hook->symbol)
		disable_kprobe(&hook->kprobe);
	else
		static_branch_disable(&hook->active);
}

int dpb_disarm_exits(struct dprobes_exit *const *exits, u32 count)
{
	u32 i;

	lockdep_assert_held(&dpb_hooks_lock);
	for (i = 0; i < count; i++)
		if (!exits[i]->hook)
			return -ENOENT;
	for (i = 0; i < count; i++) {
		if (!dpb_is_armed(exits[i]))
			continue;
		WRITE_ONCE(exits[i]->disarmed_at, dpb_state + 1);
		dpb_disuse(exits[i]->hook);
	}
	dpb_next_state();
	synchronize_rcu();
	return 0;
}

int dpb_arm_exits(struct dprobes_exit *const *exits, u32 count)
{
	u64 next = dpb_state + 1;
	int error = 0;
	u32 i;

	lockdep_assert_held(&dpb_hooks_lock);
	for (i = 0; i < count; i++)
		if (!exits[i]->hook)
			return -ENOENT;
	for (i = 0; i < count && !error; i++) {
		if (dpb_is_armed(exits[i]))
			continue;
		error = dpb_use(exits[i]->hook);
		if (!error)
			dpb_set_armed(exits[i], next);
	}
	if (!error)
		dpb_next_state();
	/* In no state are those armed that were before the one that failed. */
	for (i = 0; i < count && error; i++) {
		if (!dpb_is_armed(exits[i]) || exits[i]->armed_at != next)
			continue;
		WRITE_ONCE(exits[i]->disarmed_at, 0);
		dpb_disuse(exits[i]->hook);
	}
	return error;
}

/**
 * dprobes_exits_arm() - let exits be called, all or none of them
 * @exits: registered, on any hooks; those that are armed stay so
 * @count: how many
 *
 * No CPU comes to one of them as armed and later to another one as not.
 *
 * Return: 0, or, and none is armed that was not:
 * * -ENOENT - one is not registered
 * * -ENODEV - the place of a dynamic hook has gone with its module
 * * -ENOMEM
 */
int dprobes_exits_arm(struct dprobes_exit *const *exits, u32 count)
{
	int error;

	mutex_lock(&dpb_hooks_lock);
	error = dpb_arm_exits(exits, count);
	mutex_unlock(&dpb_hooks_lock);
	return error;
}
EXPORT_SYMBOL_GPL(dprobes_exits_arm);

/**
 * dprobes_exits_disarm() - let exits not be called any more
 * @exits: registered, on any hooks
 * @count: how many
 *
 * Returns when no CPU is in one of them.
 *
 * Return: 0; -ENOENT: one is not registered, and nothing is done.
 */
int dprobes_exits_disarm(struct dprobes_exit *const *exits, u32 count)
{
	int error;

	mutex_lock(&dpb_hooks_lock);
	error = dpb_disarm_exits(exits, count);
	mutex_unlock(&dpb_hooks_lock);
	return error;
}
EXPORT_SYMBOL_GPL(dprobes_exits_disarm);

static bool dpb_is_name_good(const char *name)
{
	return *name && !strpbrk(name, "/ \t\n") && strlen(name) < DPB_NAME;
}

/* -- registering exits ------------------------------------------------------ */

#define DPB_ORDER (DPROBES_EXIT_FIRST | DPROBES_EXIT_LIFO | DPROBES_EXIT_LAST)

struct dprobes_hook *dpb_find_hook(const char *name)
{
	struct dprobes_hook *hook;

	lockdep_assert_held(&dpb_hooks_lock);
	list_for_each_entry(hook, &dpb_hooks, list)
		if (!strcmp(hook->name, name))
			return hook;
	return NULL;
}

/* The exit with that place in the order, if there is one. */
static struct dprobes_exit *dpb_exit_at(struct dprobes_hook *hook, u32 order)
{
	struct dprobes_exit *exit;

	lockdep_assert_held(&dpb_hooks_lock);
	list_for_each_entry(exit, &hook->exits, list)
		if (exit->flags & order)
			return exit;
	return NULL;
}

static bool dpb_has_name(struct dprobes_hook *hook, const char *name)
{
	struct dprobes_exit *exit;

	lockdep_assert_held(&dpb_hooks_lock);
	list_for_each_entry(exit, &hook->exits, list)
		if (exit->name && !strcmp(exit->name, name))
			return true;
	return false;
}

/* What the new exit comes behind; or an error. */
static struct list_head *dpb_behind(struct dprobes_hook *hook, u32 order)
{
	struct dprobes_exit *first = dpb_exit_at(hook, DPROBES_EXIT_FIRST);
	struct dprobes_exit *last = dpb_exit_at(hook, DPROBES_EXIT_LAST);

	if (hook->flags & DPROBES_HOOK_EXCLUSIVE && !list_empty(&hook->exits))
		return ERR_PTR(-DPROBES_NOT_SHARED);
	if (order == DPROBES_EXIT_FIRST)
		return first ? ERR_PTR(-DPROBES_FIRST_TAKEN) : &hook->exits;
	if (order == DPROBES_EXIT_LIFO)
		return first ? &first->list : &hook->exits;
	if (!last)
		return hook->exits.prev;
	return order ? ERR_PTR(-DPROBES_LAST_TAKEN) : last->list.prev;
}

/* A hook stays as long as it has exits of others than its own module. */
static bool dpb_keeps(const struct dprobes_exit *exit)
{
	return exit->owner != exit->hook->owner;
}

static int dpb_register_exit(const char *name, struct dprobes_exit *exit)
{
	struct dprobes_hook *hook = dpb_find_hook(name);
	struct list_head *behind;

	if (exit->hook)
		return -EBUSY;
	if (!hook)
		return -ENOENT;
	if (exit->name && dpb_has_name(hook, exit->name))
		return -EINVAL;
	behind = dpb_behind(hook, exit->flags & DPB_ORDER);
	if (IS_ERR(behind))
		return PTR_ERR(behind);
	exit->hook = hook;
	if (dpb_keeps(exit) && (dpb_fails() || !try_module_get(hook->owner))) {
		exit->hook = NULL;
		return -ENODEV;
	}
	exit->armed_at = 0;
	exit->disarmed_at = 0;
	atomic64_set(&exit->hits, 0);
	list_add_rcu(&exit->list, behind);
	return 0;
}

/**
 * dprobes_exit_register() - put an exit on a hook, not armed
 * @hook: its name
 * @exit: name, owner, handler and flags are there, the rest is zeros
 *
 * The module with the hook stays as long as the exit is on it.
 *
 * Return: 0, or
 * * -EINVAL - flags that do not go together, no handler; a name that is no
 *   good (empty, too long, with a space or a /) or that another one there has
 * * -EBUSY - it is registered
 * * -ENOENT - there is no such hook
 * * -ENODEV - the module with the hook is about to go
 * * -DPROBES_NOT_SHARED, -DPROBES_FIRST_TAKEN, -DPROBES_LAST_TAKEN
 */
int dprobes_exit_register(const char *hook, struct dprobes_exit *exit)
{
	u32 order = exit->flags & DPB_ORDER;
	int error;

	if (!exit->handler || exit->flags & ~(DPB_ORDER | DPROBES_EXIT_PROC) ||
	    order & (order - 1) || (exit->name && !dpb_is_name_good(exit->name)))
		return -EINVAL;
	mutex_lock(&dpb_hooks_lock);
	error = dpb_register_exit(hook, exit);
	mutex_unlock(&dpb_hooks_lock);
	return error;
}
EXPORT_SYMBOL_GPL(dprobes_exit_register);

static void dpb_deregister_exit(struct dprobes_exit *exit)
{
	struct module *kept = dpb_keeps(exit) ? exit->hook->owner : NULL;

	lockdep_assert_held(&dpb_hooks_lock);
	list_del_rcu(&exit->list);
	/* It waits until nobody comes to the exit on the list any more. */
	dpb_disarm_exits(&exit, 1);
	WRITE_ONCE(exit->hook, NULL);
	module_put(kept);
}

/**
 * dprobes_exit_deregister() - take an exit off its hook
 * @exit: armed or not, or on none
 *
 * Returns when no CPU is in it.
 *
 * Return: 0; -ENOENT: it is on none.
 */
int dprobes_exit_deregister(struct dprobes_exit *exit)
{
	int error = -ENOENT;

	mutex_lock(&dpb_hooks_lock);
	if (exit->hook) {
		dpb_deregister_exit(exit);
		error = 0;
	}
	mutex_unlock(&dpb_hooks_lock);
	return error;
}
EXPORT_SYMBOL_GPL(dprobes_exit_deregister);

/* -- registering hooks ------------------------------------------------------ */

static int dpb_register_place(struct dprobes_hook *hook,
			      kprobe_post_handler_t after)
{
	struct kprobe *kprobe = &hook->kprobe;

	memset(kprobe, 0, sizeof(*kprobe));
	kprobe->post_handler = after;
	return dpb_register_kprobe(kprobe, hook->symbol, hook->offset,
				   dpb_hook_kprobe_hit);
}

static int dpb_place_hook(struct dprobes_hook *hook)
{
	int error;

	if (hook->flags & DPROBES_HOOK_RETURNS && hook->offset)
		return -EINVAL;
	if (hook->flags & DPROBES_HOOK_RETURNS && !dpb_allow_alter)
		return -EPERM;
	error = dpb_register_place(hook, NULL);
	/*
	 * The function tracer, where it is what calls the handler, makes no
	 * jumps.  There the kernel (as of 6.1) cannot take a probe out any more
	 * whose place has had one with a post_handler and one without.
	 */
	if (error || !(hook->flags & DPROBES_HOOK_RETURNS) ||
	    kprobe_ftrace(&hook->kprobe))
		return error;
	unregister_kprobe(&hook->kprobe);
	return dpb_register_place(hook, dpb_hook_kprobe_after);
}

static int dpb_register_hook(struct dprobes_hook *hook)
{
	int error = 0;

	lockdep_assert_held(&dpb_hooks_lock);
	if (dpb_find_hook(hook->name))
		return -EEXIST;
	INIT_LIST_HEAD(&hook->exits);
	hook->armed = 0;
	atomic64_set(&hook->hits, 0);
	atomic64_set(&hook->missed, 0);
	if (hook->symbol)
		error = dpb_place_hook(hook);
	if (error)
		return error;
	hook->number = ++dpb_last_number;
	list_add_tail_rcu(&hook->list, &dpb_hooks);
	return 0;
}

/**
 * dprobes_hook_register() - let exits find a hook
 * @hook: defined with one of the macros
 *
 * Return: 0, or
 * * -EINVAL - no good name or flags; a return from the middle of a function
 * * -EEXIST - there is a hook of that name
 * * -EPERM - a dynamic hook may have functions return only with allow_alter=1
 * * of a dynamic hook, as register_kprobe(): -ENOENT, -EILSEQ...;
 *   -EADDRNOTAVAIL: the kernel allows no probe there
 */
int dprobes_hook_register(struct dprobes_hook *hook)
{
	const u32 known = DPROBES_HOOK_EXCLUSIVE | DPROBES_HOOK_RETURNS |
			  DPROBES_HOOK_VOID;
	int error;

	if (!hook->name || !dpb_is_name_good(hook->name) ||
	    hook->flags & ~known || (hook->flags & (known ^ DPROBES_HOOK_EXCLUSIVE)) ==
	    DPROBES_HOOK_VOID)
		return -EINVAL;
	mutex_lock(&dpb_hooks_lock);
	error = dpb_register_hook(hook);
	mutex_unlock(&dpb_hooks_lock);
	return error;
}
EXPORT_SYMBOL_GPL(dprobes_hook_register);

/**
 * dprobes_hook_unregister() - undo dprobes_hook_register()
 * @hook: registered, or it could not be: then nothing is done
 *
 * Exits on it are taken off.  Returns when no CPU is in one.
 */
void dprobes_hook_unregister(struct dprobes_hook *hook)
{
	struct dprobes_exit *exit, *next;

	if (!hook->number)
		return;
	mutex_lock(&dpb_hooks_lock);
	list_del_rcu(&hook->list);
	list_for_each_entry_safe(exit, next, &hook->exits, list)
		dpb_deregister_exit(exit);
	mutex_unlock(&dpb_hooks_lock);
	if (hook->symbol)
		unregister_kprobe(&hook->kprobe);
	/* Nobody calls it by its number any more. */
	synchronize_rcu();
	hook->number = 0;
}
EXPORT_SYMBOL_GPL(dprobes_hook_unregister);
