// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Placing the probes of a program, and what happens at a hit.
 */
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "bridge.h"

/* Wake who waits for records, if somebody does; see dpb_has_records(). */
static void dpb_wake(struct dpb_program *program)
{
	/* The record before the look at who waits; pairs with the reader. */
	smp_mb();
	if (READ_ONCE(program->wanted) && xchg(&program->wanted, 0))
		irq_work_queue(&program->wake);
}
NOKPROBE_SYMBOL(dpb_wake);

/* The probe has ended: it is disabled as soon as that can be done. */
static void dpb_retire(struct dpb_place *place, u32 state)
{
	if (cmpxchg(&place->state, DPROBES_ACTIVE, state) != DPROBES_ACTIVE)
		return;
	if (!xchg(&place->program->retired, 1))
		irq_work_queue(&place->program->wake);
}
NOKPROBE_SYMBOL(dpb_retire);

static void dpb_record(struct dpb_place *place, struct dpb_cpu *cpu,
		       const struct dp_outcome *out, u64 hit)
{
	struct dprobes_record record = {
		.probe = place->index,
		.time = dp_env_fact(NULL, DP_FACT_TIME),
		.address = (u64)place->kprobe.addr,
		.hit = hit,
		.exit = out->exit,
		.major = out->major,
		.minor = out->minor,
		.pid = dp_env_fact(NULL, DP_FACT_PID),
		.tid = dp_env_fact(NULL, DP_FACT_TID),
		.uid = dp_env_fact(NULL, DP_FACT_UID),
		.cpu = dp_env_fact(NULL, DP_FACT_CPU),
		.log_size = out->log_size + out->trace_size,
		.raw_count = out->raw_count,
	};

	memcpy(record.exception, out->exception, sizeof(record.exception));
	dp_env_comm(NULL, record.comm);
	if (dpb_ring_write(&cpu->ring, &record, &cpu->buffers, out))
		dpb_wake(place->program);
}
NOKPROBE_SYMBOL(dpb_record);

/* One hit, with the machine of this CPU. */
static void dpb_run(struct dp_machine *machine, struct dpb_place *place,
		    struct pt_regs *regs)
{
	struct dpb_program *program = place->program;
	struct dp_probe *probe = &program->program.probes[place->index];
	struct dpb_cpu *cpu = program->cpus[raw_smp_processor_id()];
	struct dp_env env = { regs };
	u64 limit = probe->def.max_hits, hit;

	hit = atomic64_inc_return(&place->hits);
	if (hit <= probe->def.pass_count)
		return;
	limit = limit ? probe->def.pass_count + limit : ~0ULL;
	if (hit > limit)
		return;
	dp_run(machine, &program->program, place->index, &cpu->buffers, &env,
	       DP_BUDGET);
	atomic64_inc(&place->runs);
	if (machine->out.exit != DP_EXIT_ABORT)
		dpb_record(place, cpu, &machine->out, hit);
	if (machine->out.exit == DP_EXIT_REM)
		dpb_retire(place, DPROBES_REMOVED);
	else if (hit == limit)
		dpb_retire(place, DPROBES_DISABLED);
}
NOKPROBE_SYMBOL(dpb_run);

/* The kernel calls it with preemption off, in any context. */
static int dpb_hit(struct kprobe *kprobe, struct pt_regs *regs)
{
	struct dpb_place *place = container_of(kprobe, struct dpb_place, kprobe);
	struct dp_machine *machine;

	if (READ_ONCE(place->state) != DPROBES_ACTIVE)
		return 0;
	machine = dpb_enter();
	if (machine)
		dpb_run(machine, place, regs);
	else
		atomic64_inc(&place->recursed);
	dpb_leave();
	return 0;
}
NOKPROBE_SYMBOL(dpb_hit);

static void dpb_wake_work(struct irq_work *work)
{
	struct dpb_program *program = container_of(work, struct dpb_program,
						   wake);

	wake_up_interruptible(&program->wait);
	if (xchg(&program->retired, 0))
		schedule_work(&program->disarm);
}

static void dpb_disarm_work(struct work_struct *work)
{
	struct dpb_program *program = container_of(work, struct dpb_program,
						   disarm);
	u32 i;

	mutex_lock(&program->lock);
	for (i = 0; i < program->program.def.probe_count; i++) {
		struct dpb_place *place = &program->places[i];

		if (place->registered &&
		    READ_ONCE(place->state) != DPROBES_ACTIVE)
			disable_kprobe(&place->kprobe);
	}
	mutex_unlock(&program->lock);
}

/**
 * dpb_probes_init() - make the probes of a program ready to be placed
 * @program: its places are there
 */
void dpb_probes_init(struct dpb_program *program)
{
	u32 i;

	init_irq_work(&program->wake, dpb_wake_work);
	INIT_WORK(&program->disarm, dpb_disarm_work);
	for (i = 0; i < program->program.def.probe_count; i++) {
		program->places[i].program = program;
		program->places[i].index = i;
	}
}

/* Register the probe, disabled: nothing of ours runs before it is enabled. */
static int dpb_register(struct dpb_place *place,
			const struct dprobes_attach *attach)
{
	struct kprobe *kprobe = &place->kprobe;
	char *symbol;
	int error;

	symbol = dpb_fails() ? NULL :
		 kstrdup((const char *)attach->symbol, GFP_KERNEL_ACCOUNT);
	if (!symbol)
		return -ENOMEM;
	memset(kprobe, 0, sizeof(*kprobe));
	kprobe->symbol_name = symbol;
	kprobe->offset = attach->offset;
	kprobe->pre_handler = dpb_hit;
	kprobe->flags = KPROBE_FLAG_DISABLED;
	error = dpb_fails() ? -ENOMEM : register_kprobe(kprobe);
	if (!error && within_module((unsigned long)kprobe->addr, THIS_MODULE)) {
		unregister_kprobe(kprobe);
		error = -EINVAL;
	}
	if (error) {
		kprobe->symbol_name = NULL;
		kprobe->addr = NULL;
		kfree(symbol);
	}
	/* The arguments are good: it is the place where no probe may be. */
	return error == -EINVAL ? -EADDRNOTAVAIL : error;
}

static void dpb_unregister(struct dpb_place *place)
{
	lockdep_assert_held(&place->program->lock);
	unregister_kprobe(&place->kprobe);
	kfree(place->kprobe.symbol_name);
	place->kprobe.symbol_name = NULL;
	place->kprobe.addr = NULL;
	place->registered = false;
}

/**
 * dpb_attach() - place a probe
 * @program: of which
 * @attach: which one, and where
 *
 * Return: 0, or
 * * -EINVAL - no such probe, a pad that is not 0, no symbol
 * * -EBUSY - it is placed already
 * * -ENOENT - no such symbol
 * * -EILSEQ - not the beginning of an instruction
 * * -EADDRNOTAVAIL - a place where the kernel allows no probe, or we do not
 * * -ENOMEM
 */
int dpb_attach(struct dpb_program *program, const struct dprobes_attach *attach)
{
	struct dpb_place *place;
	int error;

	if (attach->probe >= program->program.def.probe_count || attach->pad ||
	    attach->offset > UINT_MAX || !attach->symbol[0] ||
	    !memchr(attach->symbol, 0, sizeof(attach->symbol)))
		return -EINVAL;
	place = &program->places[attach->probe];
	mutex_lock(&program->lock);
	error = place->registered ? -EBUSY : dpb_register(place, attach);
	if (!error) {
		place->registered = true;
		WRITE_ONCE(place->state, DPROBES_ACTIVE);
		error = dpb_fails() ? -ENOMEM : enable_kprobe(&place->kprobe);
		if (error) {
			WRITE_ONCE(place->state, DPROBES_COMPILED);
			dpb_unregister(place);
		}
	}
	mutex_unlock(&program->lock);
	return error;
}

/**
 * dpb_query() - the state and the counts of a probe
 * @program: of which
 * @query: which one; filled in
 *
 * Return: 0, or -EINVAL: there is no such probe.
 */
int dpb_query(struct dpb_program *program, struct dprobes_query *query)
{
	struct dpb_place *place;

	if (query->probe >= program->program.def.probe_count)
		return -EINVAL;
	place = &program->places[query->probe];
	mutex_lock(&program->lock);
	query->state = READ_ONCE(place->state);
	query->address = (u64)place->kprobe.addr;
	query->hits = atomic64_read(&place->hits);
	query->runs = atomic64_read(&place->runs);
	query->recursed = atomic64_read(&place->recursed);
	query->missed = READ_ONCE(place->kprobe.nmissed);
	mutex_unlock(&program->lock);
	return 0;
}

/**
 * dpb_detach_all() - take all probes of a program out
 * @program: of which; nobody else uses it any more
 *
 * Returns when no CPU is in a handler, and nothing that hits queued is left.
 */
void dpb_detach_all(struct dpb_program *program)
{
	u32 i, count = 0;

	mutex_lock(&program->lock);
	for (i = 0; i < program->program.def.probe_count; i++)
		if (program->places[i].registered)
			program->together[count++] = &program->places[i].kprobe;
	/* Together: it waits once for all of them. */
	unregister_kprobes(program->together, count);
	for (i = 0; i < count; i++)
		kfree(program->together[i]->symbol_name);
	mutex_unlock(&program->lock);
	irq_work_sync(&program->wake);
	cancel_work_sync(&program->disarm);
}
