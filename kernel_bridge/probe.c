// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What happens at a hit.
 */
#include <linux/sched.h>
#include <asm/segment.h>

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
		.address = place->address,
		.hit = hit,
		.exit = out->exit,
		.major = out->major,
		.minor = out->minor,
		.pid = dp_env_fact(NULL, DP_FACT_PID),
		.tid = dp_env_fact(NULL, DP_FACT_TID),
		.uid = dp_env_fact(NULL, DP_FACT_UID),
		.cpu = dp_env_fact(NULL, DP_FACT_CPU),
		.log_size = out->log_size + out->trace_size + cpu->dump_size,
		.raw_count = out->raw_count,
	};

	memcpy(record.exception, out->exception, sizeof(record.exception));
	dp_env_comm(NULL, record.comm);
	if (dpb_ring_write(cpu, &record, out))
		dpb_wake(place->program);
}
NOKPROBE_SYMBOL(dpb_record);

/* Run a part of its program, with the machine of this CPU. */
static void dpb_run_part(struct dp_machine *machine, struct dpb_place *place,
			 enum dp_part part, struct pt_regs *regs, u64 *kept)
{
	struct dpb_program *program = place->program;
	struct dpb_cpu *cpu = program->cpus[raw_smp_processor_id()];
	bool process = place->kind == DPROBES_FILE;
	struct dp_env env = { regs, process, dpb_has_registers(place) };

	machine->kept = kept;
	machine->cpu = raw_smp_processor_id();
	dp_run(machine, &program->program, place->index, part, &cpu->buffers,
	       &env, DP_BUDGET);
}
NOKPROBE_SYMBOL(dpb_run_part);

/* One hit, with the machine of this CPU. */
static void dpb_run(struct dp_machine *machine, struct dpb_place *place,
		    struct pt_regs *regs, u64 *kept)
{
	struct dpb_program *program = place->program;
	struct dp_probe *probe = &program->program.probes[place->index];
	struct dpb_cpu *cpu = program->cpus[raw_smp_processor_id()];
	u64 limit = probe->def.max_hits, hit;

	hit = atomic64_inc_return(&place->hits);
	if (hit <= probe->def.pass_count)
		return;
	limit = limit ? probe->def.pass_count + limit : ~0ULL;
	if (hit > limit)
		return;
	dpb_run_part(machine, place, DP_AT_HIT, regs, kept);
	atomic64_inc(&place->runs);
	cpu->dump_size = 0;
	if (machine->out.exit == DP_FACILITY_DUMP)
		dpb_dump(place, cpu, regs);
	if (machine->out.exit != DP_EXIT_ABORT)
		dpb_record(place, cpu, &machine->out, hit);
	if (machine->out.exit == DP_FACILITY_DUMP)
		dpb_crash(place);
	if (machine->out.exit == DP_EXIT_REM)
		dpb_retire(place, DPROBES_REMOVED);
	else if (hit == limit)
		dpb_retire(place, DPROBES_DISABLED);
}
NOKPROBE_SYMBOL(dpb_run);

/**
 * dpb_hit() - a probe was hit
 * @place: where
 * @regs: there; the program may alter them
 * @kept: of a return: what the part at the entry has left; else NULL
 *
 * Context: preemption off; any, an NMI's too.
 */
void dpb_hit(struct dpb_place *place, struct pt_regs *regs, u64 *kept)
{
	struct dp_machine *machine;

	if (READ_ONCE(place->state) != DPROBES_ACTIVE)
		return;
	machine = dpb_enter();
	if (machine)
		dpb_run(machine, place, regs, kept);
	else
		atomic64_inc(&place->recursed);
	dpb_leave();
}
NOKPROBE_SYMBOL(dpb_hit);

static bool dpb_run_entry(struct dp_machine *machine, struct dpb_place *place,
			  struct pt_regs *regs, u64 *kept)
{
	const struct dp_outcome *out = &machine->out;
	struct dpb_cpu *cpu = place->program->cpus[raw_smp_processor_id()];

	dpb_run_part(machine, place, DP_AT_ENTRY, regs, kept);
	if (out->exit == DP_EXIT_EXIT || out->exit == DP_EXIT_ABORT)
		return out->exit == DP_EXIT_EXIT;
	atomic64_inc(&place->failed);
	cpu->dump_size = 0;
	dpb_record(place, cpu, out, atomic64_read(&place->hits));
	return false;
}
NOKPROBE_SYMBOL(dpb_run_entry);

/**
 * dpb_entered() - a function was entered at whose return a probe is
 * @place: where
 * @regs: there; the program may alter them
 * @kept: DP_KEPT_WORDS for the return
 *
 * Context: as dpb_hit().
 * Return: whether the return of this call is a hit.
 */
bool dpb_entered(struct dpb_place *place, struct pt_regs *regs, u64 *kept)
{
	const struct dp_probe *probe =
		&place->program->program.probes[place->index];
	struct dp_machine *machine;
	bool wanted = false;

	if (READ_ONCE(place->state) != DPROBES_ACTIVE)
		return false;
	memset(kept, 0, DP_KEPT_WORDS * sizeof(*kept));
	if (!probe->parts[DP_AT_ENTRY].count)
		return true;
	machine = dpb_enter();
	if (machine)
		wanted = dpb_run_entry(machine, place, regs, kept);
	else
		atomic64_inc(&place->recursed);
	dpb_leave();
	return wanted;
}
NOKPROBE_SYMBOL(dpb_entered);

/**
 * dpb_hit_words() - a probe was hit in a place that has words for registers
 * @place: where
 * @words: DPROBES_HOOK_WORDS, which the program finds where the arguments of a
 *	function are; it has a copy, which nobody looks at after it
 * @ip: where that is
 *
 * Context: as dpb_hit().
 */
void dpb_hit_words(struct dpb_place *place, const u64 *words, u64 ip)
{
	struct pt_regs regs = {
		.di = words[0],
		.si = words[1],
		.dx = words[2],
		.cx = words[3],
		.r8 = words[4],
		.r9 = words[5],
		.ip = ip,
		.sp = (u64)__builtin_frame_address(0),
		.cs = __KERNEL_CS,
		.ss = __KERNEL_DS,
	};

	dpb_hit(place, &regs, NULL);
}
NOKPROBE_SYMBOL(dpb_hit_words);

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
	dpb_disarm(container_of(work, struct dpb_program, disarm));
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
