// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Placing the probes of a program, and taking them out.
 */
#include <linux/module.h>
#include <linux/slab.h>

#include "bridge.h"

/*
 * The kernel calls it with preemption off, in any context.  It has rip behind
 * the breakpoint, wants it back like that, and knows itself where to go on: no
 * program of the kernel may alter it (DP_REG_POP_KERNEL).
 */
static int dpb_kprobe_hit(struct kprobe *kprobe, struct pt_regs *regs)
{
	unsigned long behind = regs->ip;

	regs->ip = (unsigned long)kprobe->addr;
	dpb_hit(container_of(kprobe, struct dpb_place, kprobe), regs,
		NULL);
	regs->ip = behind;
	return 0;
}
NOKPROBE_SYMBOL(dpb_kprobe_hit);

static bool dpb_is_watch(const struct dpb_place *place)
{
	return place->kind >= DPROBES_WATCH_X && place->kind <= DPROBES_WATCH_RW;
}

/**
 * dpb_register_kprobe() - register a kprobe, disabled
 * @kprobe: zeros, or with what else it shall have
 * @symbol: of the function
 * @offset: in it
 * @handler: nothing calls it before the kprobe is enabled
 *
 * Return: 0, or as dpb_attach().
 */
int dpb_register_kprobe(struct kprobe *kprobe, const char *symbol, u32 offset,
			kprobe_pre_handler_t handler)
{
	int error;

	kprobe->symbol_name = symbol;
	kprobe->offset = offset;
	kprobe->pre_handler = handler;
	kprobe->flags = KPROBE_FLAG_DISABLED;
	error = dpb_fails() ? -ENOMEM : register_kprobe(kprobe);
	/* The arguments are good: it is the place where no probe may be. */
	if (error == -EINVAL)
		return -EADDRNOTAVAIL;
	if (error)
		return error;
	if (within_module((unsigned long)kprobe->addr, THIS_MODULE)) {
		unregister_kprobe(kprobe);
		return -EACCES;
	}
	return 0;
}

static int dpb_register_code(struct dpb_place *place)
{
	int error;

	memset(&place->kprobe, 0, sizeof(place->kprobe));
	error = dpb_register_kprobe(&place->kprobe, place->symbol, place->offset,
				    dpb_kprobe_hit);
	if (!error)
		place->address = (u64)place->kprobe.addr;
	return error;
}

/**
 * struct dpb_way - how probes of a kind are placed that are neither in code nor
 * at data
 * @find: find the place and set its address
 * @enable: let hits come, or undo @find
 * @remove: undo both
 */
struct dpb_way {
	int (*find)(struct dpb_place *place);
	int (*enable)(struct dpb_place *place);
	void (*remove)(struct dpb_place *place);
};

static const struct dpb_way dpb_ways[] = {
	[DPROBES_TRACEPOINT] = {
		dpb_tracepoint_find, dpb_tracepoint_enable,
		dpb_tracepoint_disable,
	},
	[DPROBES_HOOK] = { dpb_exit_add, dpb_exit_enable, dpb_exit_remove },
	[DPROBES_FILE] = { dpb_file_find, dpb_file_enable, dpb_file_remove },
	[DPROBES_LEAVE] = {
		dpb_return_find, dpb_return_enable, dpb_return_remove,
	},
};

/* NULL: of code or data. */
static const struct dpb_way *dpb_way(const struct dpb_place *place)
{
	return dpb_ways[place->kind].find ? &dpb_ways[place->kind] : NULL;
}

/* Register it, disabled. */
static int dpb_register(struct dpb_place *place)
{
	if (dpb_way(place))
		return dpb_way(place)->find(place);
	return dpb_is_watch(place) ? dpb_watch(place) : dpb_register_code(place);
}

/* Let hits come. */
static int dpb_enable(struct dpb_place *place)
{
	if (dpb_way(place))
		return dpb_way(place)->enable(place);
	if (!dpb_is_watch(place))
		return dpb_fails() ? -ENOMEM : enable_kprobe(&place->kprobe);
	dpb_watch_enable(place);
	return 0;
}

/* Register it, and let hits come. */
static int dpb_place(struct dpb_place *place)
{
	u32 before = READ_ONCE(place->state);
	int error;

	lockdep_assert_held(&place->program->lock);
	error = dpb_register(place);
	if (error)
		return error;
	place->registered = true;
	WRITE_ONCE(place->state, DPROBES_ACTIVE);
	error = dpb_enable(place);
	if (!error)
		return 0;
	WRITE_ONCE(place->state, before);
	if (place->kind == DPROBES_CODE)
		unregister_kprobe(&place->kprobe);
	place->registered = false;
	place->address = 0;
	return error;
}

/**
 * dpb_module_came() - place what waited for a module
 * @program: of which
 * @module: it has come, and has not run yet
 */
void dpb_module_came(struct dpb_program *program, const struct module *module)
{
	size_t size = strlen(module->name);
	u32 i;

	mutex_lock(&program->lock);
	for (i = 0; i < program->program.def.probe_count; i++) {
		struct dpb_place *place = &program->places[i];
		const char *colon;
		int error;

		if (READ_ONCE(place->state) != DPROBES_PENDING)
			continue;
		/* One that was in a module that it does not name may be in any. */
		colon = strchr(place->symbol, ':');
		if (colon && (colon - place->symbol != size ||
			      memcmp(place->symbol, module->name, size)))
			continue;
		error = dpb_place(place);
		if (error && (colon || error != -ENOENT)) {
			place->error = -error;
			WRITE_ONCE(place->state, DPROBES_FAILED);
		}
	}
	mutex_unlock(&program->lock);
}

/* Whether a module that goes, or what it only had for its init, has the place. */
static bool dpb_goes(const struct dpb_place *place, const struct module *module,
		     bool init_only)
{
	if (!module)
		return true;
	return init_only ? within_module_init(place->address, module) :
			   within_module(place->address, module);
}

/* Nobody comes to it any more; what the kernel passed over is in @missed. */
static void dpb_is_out(struct dpb_place *place, u64 missed)
{
	lockdep_assert_held(&place->program->lock);
	place->missed += missed;
	place->registered = false;
	place->address = 0;
}

/* Whether it is found again by the name of a function in a module. */
static bool dpb_may_wait(const struct dpb_place *place)
{
	return place->kind == DPROBES_CODE || place->kind == DPROBES_LEAVE;
}

/* It waits; where anything else is next time is not for us to find out. */
static void dpb_has_gone(struct dpb_place *place)
{
	u32 now = dpb_may_wait(place) ? DPROBES_PENDING : DPROBES_FAILED;

	if (cmpxchg(&place->state, DPROBES_ACTIVE, now) == DPROBES_ACTIVE &&
	    now == DPROBES_FAILED)
		place->error = ENODEV;
}

static void dpb_take_out_watch(struct dpb_place *place)
{
	/* No more hits come while the last ones are counted. */
	dpb_watch_disable(place);
	dpb_is_out(place, dpb_watch_missed(place));
	dpb_watch_free(place);
}

/**
 * dpb_take_out() - take probes out
 * @program: of which
 * @module: the module that they are in; NULL: all of them
 * @init_only: only those in what the module had for its init
 *
 * Those of code wait for the next time that their module comes.  Returns when
 * no CPU is in a handler of them.
 */
void dpb_take_out(struct dpb_program *program, const struct module *module,
		  bool init_only)
{
	bool traced = false;
	u32 i, count = 0;

	mutex_lock(&program->lock);
	for (i = 0; i < program->program.def.probe_count; i++) {
		struct dpb_place *place = &program->places[i];

		if (!place->registered || !dpb_goes(place, module, init_only))
			continue;
		dpb_has_gone(place);
		if (dpb_is_watch(place)) {
			dpb_take_out_watch(place);
		} else if (dpb_way(place)) {
			dpb_way(place)->remove(place);
			dpb_is_out(place, 0);
			traced |= place->kind == DPROBES_TRACEPOINT;
		} else {
			program->together[count++] = &place->kprobe;
		}
	}
	/* Together: it waits once for all of them. */
	unregister_kprobes(program->together, count);
	for (i = 0; i < count; i++)
		dpb_is_out(container_of(program->together[i], struct dpb_place,
					kprobe),
			   program->together[i]->nmissed);
	if (traced)
		dpb_tracepoint_sync();
	mutex_unlock(&program->lock);
}

/**
 * dpb_disarm() - let no more hits come of probes that have ended
 * @program: of which
 */
void dpb_disarm(struct dpb_program *program)
{
	bool traced = false;
	u32 i;

	mutex_lock(&program->lock);
	for (i = 0; i < program->program.def.probe_count; i++) {
		struct dpb_place *place = &program->places[i];

		if (!place->registered ||
		    READ_ONCE(place->state) == DPROBES_ACTIVE)
			continue;
		if (dpb_is_watch(place)) {
			dpb_watch_disable(place);
		} else if (dpb_way(place)) {
			dpb_way(place)->remove(place);
			dpb_is_out(place, 0);
			traced |= place->kind == DPROBES_TRACEPOINT;
		} else {
			disable_kprobe(&place->kprobe);
		}
	}
	if (traced)
		dpb_tracepoint_sync();
	mutex_unlock(&program->lock);
}

static bool dpb_is_name_valid(const struct dprobes_attach *attach)
{
	return !attach->address && !attach->length && attach->symbol[0] &&
	       memchr(attach->symbol, 0, sizeof(attach->symbol));
}

static bool dpb_is_nameless(const struct dprobes_attach *attach)
{
	return !memchr_inv(attach->symbol, 0, sizeof(attach->symbol));
}

static bool dpb_is_watch_valid(const struct dprobes_attach *attach)
{
	u32 most = attach->kind == DPROBES_WATCH_X ? 1 : 8;

	return !attach->offset && is_power_of_2(attach->length) &&
	       attach->length <= most &&
	       IS_ALIGNED(attach->address, attach->length) &&
	       attach->address >= TASK_SIZE_MAX &&
	       __is_canonical_address(attach->address,
				      boot_cpu_data.x86_virt_bits) &&
	       dpb_is_nameless(attach);
}

static bool dpb_is_valid(const struct dprobes_attach *attach)
{
	switch (attach->kind) {
	case DPROBES_CODE:
		return dpb_is_name_valid(attach) && attach->offset <= UINT_MAX;
	case DPROBES_WATCH_X:
	case DPROBES_WATCH_W:
	case DPROBES_WATCH_RW:
		return dpb_is_watch_valid(attach);
	case DPROBES_TRACEPOINT:
	case DPROBES_HOOK:
	case DPROBES_LEAVE:
		return dpb_is_name_valid(attach) && !attach->offset;
	case DPROBES_FILE:
		/* The kernel takes a negative one for one before the end. */
		return attach->offset && attach->offset <= LLONG_MAX &&
		       !attach->address && dpb_is_nameless(attach);
	default:
		return false;
	}
}

/* Place a probe that nobody has placed yet, or let it wait for its module. */
static int dpb_place_first(struct dpb_place *place,
			   const struct dprobes_attach *attach)
{
	int error;

	lockdep_assert_held(&place->program->lock);
	place->kind = attach->kind;
	place->offset = attach->offset;
	place->address = attach->address;
	place->length = attach->length;
	if (attach->symbol[0]) {
		place->symbol = dpb_fails() ? NULL :
				kstrdup((const char *)attach->symbol,
					GFP_KERNEL_ACCOUNT);
		if (!place->symbol)
			return -ENOMEM;
	}
	error = dpb_place(place);
	if (error == -ENOENT && dpb_may_wait(place) &&
	    dpb_module_may_come(place->symbol)) {
		WRITE_ONCE(place->state, DPROBES_PENDING);
		return 0;
	}
	if (error) {
		place->address = 0;
		kfree(place->symbol);
		place->symbol = NULL;
	}
	return error;
}

/**
 * dpb_attach() - place a probe
 * @program: of which
 * @attach: which one, and where
 *
 * Return: 0, also where it waits for its module, or
 * * -EINVAL - no such probe or kind, a pad that is not 0, no such place
 * * -EBUSY - it was placed already
 * * -ENOENT - no such symbol, tracepoint or hook
 * * -EILSEQ - not the beginning of an instruction
 * * -EADDRNOTAVAIL - a place where the kernel allows no probe
 * * -EBADF - of a file: no such descriptor
 * * -EACCES - a place in this module
 * * -EUSERS - the hook takes one exit only, and has one
 * * -ENODEV - the module with the hook is about to go
 * * -ENOSPC - no debug register is left
 * * -ENOMEM
 */
int dpb_attach(struct dpb_program *program, const struct dprobes_attach *attach)
{
	struct dpb_place *place;
	int error;

	if (attach->probe >= program->program.def.probe_count || attach->pad ||
	    !dpb_is_valid(attach))
		return -EINVAL;
	place = &program->places[attach->probe];
	mutex_lock(&program->lock);
	if (READ_ONCE(place->state) == DPROBES_COMPILED)
		error = dpb_place_first(place, attach);
	else
		error = -EBUSY;
	mutex_unlock(&program->lock);
	return error;
}

static u64 dpb_missed(struct dpb_place *place)
{
	u64 before = place->missed + atomic64_read(&place->failed);

	lockdep_assert_held(&place->program->lock);
	if (place->registered && dpb_is_watch(place))
		return before + dpb_watch_missed(place);
	if (place->registered && place->kind == DPROBES_CODE)
		return before + READ_ONCE(place->kprobe.nmissed);
	if (place->registered && place->kind == DPROBES_LEAVE)
		return before + dpb_return_missed(place);
	return before;
}

/**
 * dpb_query() - the state and the counts of a probe
 * @program: of which
 * @query: which one; filled in
 *
 * Return: 0, or -EINVAL: there is no such probe, or a pad is not 0.
 */
int dpb_query(struct dpb_program *program, struct dprobes_query *query)
{
	struct dpb_place *place;

	if (query->probe >= program->program.def.probe_count || query->pad)
		return -EINVAL;
	place = &program->places[query->probe];
	mutex_lock(&program->lock);
	if (place->registered && place->kind == DPROBES_HOOK &&
	    dpb_exit_is_off(place)) {
		dpb_has_gone(place);
		dpb_is_out(place, 0);
	}
	query->state = READ_ONCE(place->state);
	query->error = place->error;
	query->address = place->address;
	query->missed = dpb_missed(place);
	query->hits = atomic64_read(&place->hits);
	query->runs = atomic64_read(&place->runs);
	query->recursed = atomic64_read(&place->recursed);
	mutex_unlock(&program->lock);
	return 0;
}

/**
 * dpb_detach() - take all probes of a program out for good
 * @program: of which
 *
 * Returns when no CPU is in a handler: what was counted, recorded and kept in
 * maps is whole then, and stays to be read.
 */
void dpb_detach(struct dpb_program *program)
{
	u32 i;

	dpb_unpublish(program);
	mutex_lock(&program->lock);
	for (i = 0; i < program->program.def.probe_count; i++)
		if (READ_ONCE(program->places[i].state) != DPROBES_FAILED)
			WRITE_ONCE(program->places[i].state, DPROBES_REMOVED);
	mutex_unlock(&program->lock);
	dpb_take_out(program, NULL, false);
}

/**
 * dpb_detach_all() - take all probes of a program out
 * @program: of which; nobody else uses it any more
 *
 * Returns when no CPU is in a handler, and nothing that hits queued is left.
 */
void dpb_detach_all(struct dpb_program *program)
{
	u32 i;

	dpb_take_out(program, NULL, false);
	irq_work_sync(&program->wake);
	cancel_work_sync(&program->disarm);
	for (i = 0; i < program->program.def.probe_count; i++)
		kfree(program->places[i].symbol);
}
