/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the parts of dprobes.ko have in common.
 *
 * A session is an open /dev/dprobes: the global variables.  A program is a
 * descriptor of its own: code, variables, probes, and for each CPU buffers and
 * a ring of records.  It keeps its session.
 *
 * A hit.  The kernel calls dpb_hit() with preemption off.  One program runs at
 * a time on a CPU (dpb_enter()); what is hit meanwhile, also from an interrupt
 * or an NMI, is counted and not run.  So the machine of the CPU, and buffers
 * and the writing end of the ring of the program there, belong to that hit and
 * need no lock.
 *
 * Maps.  What a hit does to one, it does on its own CPU's part, or holds a part
 * for a moment that hits on other CPUs wait for, for a bounded time: see
 * interp/bank.c and map.c.
 *
 * The end.  dpb_program_free() takes the program out of the list that module
 * events go through, and unregisters the probes, which waits until no CPU is
 * in their handlers; then it waits for the work that hits have queued; only
 * then is memory freed.
 *
 * A module that comes or goes.  dpb_module_event() goes through all programs,
 * under dpb_programs_lock and then dpb_program.lock, which is the order of
 * both everywhere; dpb_hooks_lock comes behind them.  A probe that finds no
 * module under dpb_program.lock, and is pending from then on, is seen by the
 * event of that module.
 */
#ifndef DPB_BRIDGE_H
#define DPB_BRIDGE_H

#include <linux/irq_work.h>
#include <linux/kprobes.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/path.h>
#include <linux/poll.h>
#include <linux/uprobes.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "hooks.h"
#include "interp/interp.h"

/* Names of hooks and of exits are shorter. */
#define DPB_NAME 64

/**
 * struct dpb_session - an open /dev/dprobes
 * @ref: one of the open file, one of each program
 * @lock: protects the growth of @count
 * @count: global variables that there are; only grows
 * @globals: each is read and written as a word, by anybody
 */
struct dpb_session {
	struct kref ref;
	struct mutex lock;
	u32 count;
	u64 globals[DP_MAX_VARIABLES];
};

/**
 * struct dpb_ring - records of one program on one CPU
 * @data: @size bytes
 * @size: a power of two
 * @head: bytes ever written: by hits on this CPU only, one at a time
 * @tail: bytes ever read: under dpb_program.reading
 * @written: records in it so far: as @head
 * @lost: records that had no room: as @head
 */
struct dpb_ring {
	u8 *data;
	u32 size;
	u64 head;
	u64 tail;
	u64 written;
	u64 lost;
};

/**
 * struct dpb_cpu - what a program has for one CPU
 * @memory: of @buffers
 * @buffers: of the hit that runs there
 * @ring: its records
 * @dump: what the hit has behind its log; NULL: its program ends by no dump
 * @dump_size: bytes of it, 0: that hit has not ended by one
 */
struct dpb_cpu {
	void *memory;
	struct dp_buffers buffers;
	struct dpb_ring ring;
	u8 *dump;
	u32 dump_size;
};

struct module;
struct perf_event;
struct tracepoint;

/**
 * struct dpb_place - where a probe of a program is
 *
 * All but the state and the counts of hits changes under dpb_program.lock, and
 * never while hits can come.
 *
 * @program: the owner
 * @index: which probe of it
 * @kind: enum dprobes_kind, of what was asked for last
 * @symbol: of code, a return, a tracepoint or a hook, what was asked for; NULL: nothing was
 * @offset: the same
 * @kprobe: of code: ours; the kernel's while @registered
 * @kretprobe: of a return: ours; the kernel's while @registered
 * @watch: of data: an event for each CPU, while @registered
 * @tracepoint: where it was found; it stays, as the kernel does
 * @exit: of a hook: ours; on the hook's list while @registered
 * @consumer: of a file: ours; the kernel's while @registered
 * @uprobe: the kernel's of that
 * @file: where that is, while @registered
 * @length: of data; of a file, the descriptor that it was given as
 * @handled: of data: how often the kernel has told of a hit
 * @registered: whether the kernel has it, to be called or disabled
 * @address: where it is, 0: not @registered
 * @error: of a failed one: why, as a positive number
 * @missed: hits that the kernel passed over in places where it was before
 * @state: enum dprobes_state; read and written as a word: only the hit that
 *	finds it DPROBES_ACTIVE ends it
 * @hits: those passed over included
 * @runs: how often the program ran
 * @recursed: hits that found another program running on their CPU
 * @failed: calls that the part at the entry could not do
 */
struct dpb_place {
	struct dpb_program *program;
	u32 index;
	u32 kind;
	char *symbol;
	u64 offset;
	struct kprobe kprobe;
	struct kretprobe kretprobe;
	struct perf_event * __percpu *watch;
	struct tracepoint *tracepoint;
	struct dprobes_exit exit;
	struct uprobe_consumer consumer;
	struct uprobe *uprobe;
	struct path file;
	u32 length;
	atomic64_t handled;
	bool registered;
	u64 address;
	u32 error;
	u64 missed;
	u32 state;
	atomic64_t hits;
	atomic64_t runs;
	atomic64_t recursed;
	atomic64_t failed;
};

/**
 * struct dpb_program - a program that was loaded
 * @program: for the interpreter
 * @session: of the device that it was loaded through
 * @list: in dpb_programs, under dpb_programs_lock
 * @places: one for each probe
 * @together: as many pointers, for taking probes out, under @lock
 * @cpus: by number; NULL for those that cannot come
 * @lock: protects placing
 * @reading: protects the reading end of the rings
 * @map_lock: protects that the banks of maps are read and replaced
 * @wait: who waits for records
 * @wanted: whether somebody does: a hit that clears it wakes them
 * @retired: whether a probe has ended since @disarm was queued
 * @wake: wakes @wait, and queues @disarm
 * @disarm: disables probes that have ended
 */
struct dpb_program {
	struct dp_program program;
	struct dpb_session *session;
	struct list_head list;
	struct dpb_place *places;
	struct kprobe **together;
	struct dpb_cpu **cpus;
	struct mutex lock;
	struct mutex reading;
	struct mutex map_lock;
	wait_queue_head_t wait;
	u32 wanted;
	u32 retired;
	struct irq_work wake;
	struct work_struct disarm;
};

/**
 * struct dp_env - what the interpreter sees of a hit
 * @regs: at the probe
 * @process: it is one of a process: its memory is there, the kernel's is not
 * @has_registers: whether the place has some, or @regs has but words
 */
struct dp_env {
	struct pt_regs *regs;
	bool process;
	bool has_registers;
};

/* main.c */
extern bool dpb_allow_alter;

#ifdef DPB_INJECT
/* For the tests: whether the step that comes now is the one to fail. */
bool dpb_fails(void);
#else
static inline bool dpb_fails(void)
{
	return false;
}
#endif
struct dp_machine *dpb_enter(void);
void dpb_leave(void);
void dpb_session_put(struct dpb_session *session);

/* program.c */
int dpb_load(struct dpb_session *session, struct dprobes_load __user *to);

/* map.c */
int dpb_maps_make(struct dp_program *code);
void dpb_maps_free(struct dp_program *code);
int dpb_contents(struct dpb_program *program, struct dprobes_contents *contents);

/* probe.c */
void dpb_probes_init(struct dpb_program *program);
void dpb_hit(struct dpb_place *place, struct pt_regs *regs, u64 *kept);
bool dpb_entered(struct dpb_place *place, struct pt_regs *regs, u64 *kept);
void dpb_hit_words(struct dpb_place *place, const u64 *words, u64 ip);

/* dump.c */
bool dpb_has_registers(const struct dpb_place *place);
int dpb_dump_init(const struct dp_program *program, struct dpb_cpu *cpu);
void dpb_dump(const struct dpb_place *place, struct dpb_cpu *cpu,
	      struct pt_regs *regs);
void dpb_crash(const struct dpb_place *place);

/* place.c */
int dpb_register_kprobe(struct kprobe *kprobe, const char *symbol, u32 offset,
			kprobe_pre_handler_t handler);
int dpb_attach(struct dpb_program *program, const struct dprobes_attach *attach);
int dpb_query(struct dpb_program *program, struct dprobes_query *query);
void dpb_module_came(struct dpb_program *program, const struct module *module);
void dpb_take_out(struct dpb_program *program, const struct module *module,
		  bool init_only);
void dpb_disarm(struct dpb_program *program);
void dpb_detach(struct dpb_program *program);
void dpb_detach_all(struct dpb_program *program);

/* watch.c */
int dpb_watch(struct dpb_place *place);
void dpb_watch_enable(struct dpb_place *place);
void dpb_watch_disable(struct dpb_place *place);
void dpb_watch_free(struct dpb_place *place);
u64 dpb_watch_missed(struct dpb_place *place);

/* tracepoint.c */
int dpb_tracepoint_find(struct dpb_place *place);
int dpb_tracepoint_enable(struct dpb_place *place);
void dpb_tracepoint_disable(struct dpb_place *place);
void dpb_tracepoint_sync(void);

/* file.c */
int dpb_file_find(struct dpb_place *place);
int dpb_file_enable(struct dpb_place *place);
void dpb_file_remove(struct dpb_place *place);

/* return.c */
int dpb_return_find(struct dpb_place *place);
int dpb_return_enable(struct dpb_place *place);
u64 dpb_return_missed(const struct dpb_place *place);
void dpb_return_remove(struct dpb_place *place);

/* hook.c */
extern struct mutex dpb_hooks_lock;
extern struct list_head dpb_hooks;

enum dprobes_step dpb_call_hook(struct dprobes_hook *hook,
				struct dprobes_event *event);
bool dpb_is_armed(const struct dprobes_exit *exit);
int dpb_arm_exits(struct dprobes_exit *const *exits, u32 count);
int dpb_disarm_exits(struct dprobes_exit *const *exits, u32 count);
struct dprobes_hook *dpb_find_hook(const char *name);

/* hook_place.c */
bool dpb_name_program(const struct dprobes_exit *exit, char *name, size_t size);
int dpb_exit_add(struct dpb_place *place);
int dpb_exit_enable(struct dpb_place *place);
void dpb_exit_remove(struct dpb_place *place);
bool dpb_exit_is_off(const struct dpb_place *place);

/* hook_proc.c */
int dpb_hooks_init(void);
void dpb_hooks_exit(void);

/* module.c */
bool dpb_module_may_come(const char *symbol);
void dpb_publish(struct dpb_program *program);
void dpb_unpublish(struct dpb_program *program);
int dpb_modules_init(void);
void dpb_modules_exit(void);

/* ring.c */
int dpb_ring_init(struct dpb_ring *ring, u32 size);
void dpb_ring_free(struct dpb_ring *ring);
bool dpb_ring_write(struct dpb_cpu *cpu, const struct dprobes_record *record,
		    const struct dp_outcome *out);
ssize_t dpb_ring_read(struct dpb_ring *ring, char __user *to, size_t room);
bool dpb_ring_empty(const struct dpb_ring *ring);

#endif /* DPB_BRIDGE_H */
