// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A program: loading, its descriptor, its end.
 */
#include <linux/anon_inodes.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "bridge.h"

/* Bytes of a ring, on each CPU. */
#define DPB_RING_MOST (16U << 20)

/* Blocks of all probes of a program: where they share subroutines, many. */
#define DPB_BLOCKS_MOST (1U << 20)

/* -- the end --------------------------------------------------------------- */

static void dpb_free_cpus(struct dpb_program *program)
{
	int cpu;

	if (!program->cpus)
		return;
	for_each_possible_cpu(cpu) {
		struct dpb_cpu *each = program->cpus[cpu];

		if (!each)
			continue;
		dpb_ring_free(&each->ring);
		kvfree(each->dump);
		vfree(each->memory);
		kfree(each);
	}
	kfree(program->cpus);
}

/* Free a program, all of it or as far as it was made. */
static void dpb_program_free(struct dpb_program *program)
{
	struct dp_program *code = &program->program;

	dpb_unpublish(program);
	if (program->together)
		dpb_detach_all(program);
	dpb_free_cpus(program);
	dpb_maps_free(code);
	kvfree(program->together);
	kvfree(program->places);
	kvfree(code->code);
	kvfree(code->probes);
	kvfree(code->facilities);
	kvfree(code->names);
	kvfree(code->symbols);
	kvfree(code->blocks);
	kvfree(code->locals);
	dpb_session_put(program->session);
	kfree(program);
}

/* -- loading --------------------------------------------------------------- */

static int dpb_copy_in(const void **to, u64 from, u32 count, size_t each)
{
	void *copy = dpb_fails() ? ERR_PTR(-ENOMEM) :
		     vmemdup_user(u64_to_user_ptr(from), count * each);

	if (IS_ERR(copy))
		return PTR_ERR(copy);
	*to = copy;
	return 0;
}

static int dpb_copy_probes(struct dp_program *code)
{
	u32 count = code->def.probe_count, i;
	const struct dprobes_probe *defs;
	int error;

	error = dpb_copy_in((const void **)&defs, code->def.probes, count,
			    sizeof(*defs));
	if (error)
		return error;
	if (!dpb_fails())
		code->probes = kvcalloc(count, sizeof(*code->probes),
					GFP_KERNEL_ACCOUNT);
	if (code->probes)
		for (i = 0; i < count; i++)
			code->probes[i].def = defs[i];
	kvfree(defs);
	return code->probes ? 0 : -ENOMEM;
}

static int dpb_copy_maps(struct dp_program *code)
{
	u32 count = code->def.map_count, i;
	const struct dprobes_map *defs;
	int error;

	error = dpb_copy_in((const void **)&defs, code->def.maps, count,
			    sizeof(*defs));
	if (error)
		return error;
	if (!dpb_fails())
		code->maps = kvcalloc(count, sizeof(*code->maps),
				      GFP_KERNEL_ACCOUNT);
	if (code->maps)
		for (i = 0; i < count; i++)
			code->maps[i].def = defs[i];
	kvfree(defs);
	return code->maps ? 0 : -ENOMEM;
}

/* All that the program's addresses point at; its counts are within limits. */
static int dpb_copy_arrays(struct dp_program *code)
{
	const struct dprobes_load *def = &code->def;
	int error;

	error = dpb_copy_in((const void **)&code->code, def->code,
			    def->code_size, 1);
	if (!error)
		error = dpb_copy_probes(code);
	if (!error)
		error = dpb_copy_in((const void **)&code->facilities,
				    def->facilities, def->facility_count,
				    sizeof(*code->facilities));
	if (!error)
		error = dpb_copy_in((const void **)&code->names, def->names,
				    def->name_count, sizeof(*code->names));
	if (!error)
		error = dpb_copy_in((const void **)&code->symbols, def->symbols,
				    def->name_count, sizeof(*code->symbols));
	if (!error)
		error = dpb_copy_maps(code);
	return error;
}

/* Count, or make, the blocks of all probes. */
static struct dp_refusal dpb_blocks(struct dp_program *code,
				    struct dp_scratch *scratch)
{
	struct dp_refusal refusal = { DPROBES_TOO_MANY_BLOCKS, 0 };
	u32 i, total = 0;

	for (i = 0; i < DP_PARTS * code->def.probe_count; i++) {
		u32 which = i / DP_PARTS, part = i % DP_PARTS;
		struct dp_blocks *to = &code->probes[which].parts[part];

		refusal.where = which;
		if (code->blocks)
			dp_find_blocks(code, which, part, scratch,
				       code->blocks + to->first, to->count);
		else
			to->count = dp_find_blocks(code, which, part, scratch,
						   NULL, 0);
		to->first = total;
		total += to->count;
		if (total > DPB_BLOCKS_MOST)
			return refusal;
		if (fatal_signal_pending(current))
			return refusal;
		cond_resched();
	}
	refusal.reason = DPROBES_OK;
	refusal.where = total;
	return refusal;
}

/* Verify the program and find its blocks; refused: -EBADMSG and why. */
static int dpb_prepare(struct dp_program *code, struct dp_refusal *refusal)
{
	struct dp_scratch *scratch = dpb_fails() ? NULL :
		kvmalloc(sizeof(*scratch), GFP_KERNEL_ACCOUNT);
	int error = -EBADMSG;

	if (!scratch)
		return -ENOMEM;
	*refusal = dp_verify(code, scratch);
	if (refusal->reason == DPROBES_OK)
		*refusal = dpb_blocks(code, scratch);
	if (refusal->reason == DPROBES_OK) {
		if (!dpb_fails())
			code->blocks = kvcalloc(refusal->where,
						sizeof(*code->blocks),
						GFP_KERNEL_ACCOUNT);
		error = code->blocks ? 0 : -ENOMEM;
		if (!error)
			*refusal = dpb_blocks(code, scratch);
	}
	kvfree(scratch);
	return error;
}

static int dpb_make_cpu(struct dpb_program *program, int cpu, size_t size)
{
	struct dp_program *code = &program->program;
	struct dpb_cpu *each = dpb_fails() ? NULL :
		kzalloc_node(sizeof(*each), GFP_KERNEL_ACCOUNT, cpu_to_node(cpu));

	if (!each)
		return -ENOMEM;
	program->cpus[cpu] = each;
	if (dpb_fails())
		return -ENOMEM;
	each->memory = __vmalloc(size, GFP_KERNEL_ACCOUNT | __GFP_ZERO |
					   __GFP_NOWARN);
	if (!each->memory)
		return -ENOMEM;
	dp_buffers_init(&each->buffers, code, each->memory);
	if (dpb_dump_init(code, each))
		return -ENOMEM;
	return dpb_ring_init(&each->ring, code->def.ring);
}

static int dpb_make_memory(struct dpb_program *program)
{
	struct dp_program *code = &program->program;
	size_t size = dp_buffers_size(code);
	int cpu, error;

	if (dpb_fails())
		return -ENOMEM;
	code->locals = kvcalloc(code->def.vars, sizeof(u64), GFP_KERNEL_ACCOUNT);
	if (dpb_fails())
		return -ENOMEM;
	program->places = kvcalloc(code->def.probe_count,
				   sizeof(*program->places), GFP_KERNEL_ACCOUNT);
	if (dpb_fails())
		return -ENOMEM;
	program->cpus = kcalloc(nr_cpu_ids, sizeof(*program->cpus),
				GFP_KERNEL_ACCOUNT);
	if (!code->locals || !program->places || !program->cpus)
		return -ENOMEM;
	dpb_probes_init(program);
	if (!dpb_fails())
		program->together = kvcalloc(code->def.probe_count,
					     sizeof(*program->together),
					     GFP_KERNEL_ACCOUNT);
	if (!program->together)
		return -ENOMEM;
	for_each_possible_cpu(cpu) {
		error = dpb_make_cpu(program, cpu, size);
		if (error)
			return error;
	}
	return dpb_maps_make(code);
}

/* There are as many global variables as the program needs, at least. */
static void dpb_grow_globals(struct dpb_program *program)
{
	struct dpb_session *session = program->session;
	struct dp_program *code = &program->program;

	mutex_lock(&session->lock);
	if (code->def.gvars > session->count)
		WRITE_ONCE(session->count, code->def.gvars);
	mutex_unlock(&session->lock);
	code->globals = session->globals;
	code->globals_count = &session->count;
}

static struct dpb_program *dpb_program_alloc(struct dpb_session *session,
					     const struct dprobes_load *def)
{
	struct dpb_program *program = dpb_fails() ? NULL :
		kzalloc(sizeof(*program), GFP_KERNEL_ACCOUNT);

	if (!program)
		return NULL;
	program->program.def = *def;
	program->program.alter = dpb_allow_alter;
	mutex_init(&program->lock);
	mutex_init(&program->reading);
	mutex_init(&program->map_lock);
	INIT_LIST_HEAD(&program->list);
	init_waitqueue_head(&program->wait);
	kref_get(&session->ref);
	program->session = session;
	return program;
}

static const struct file_operations dpb_program_fops;

/* A program of what was asked for, or an error, and in @refusal why. */
static struct dpb_program *dpb_make(struct dpb_session *session,
				    const struct dprobes_load *def,
				    struct dp_refusal *refusal)
{
	struct dpb_program *program;
	int error;

	*refusal = dp_verify_header(def);
	if (refusal->reason == DPROBES_OK && def->modtype == DPROBES_USER) {
		refusal->reason = DPROBES_BAD_MODTYPE;
		refusal->where = def->modtype;
	}
	if (refusal->reason != DPROBES_OK)
		return ERR_PTR(-EBADMSG);
	program = dpb_program_alloc(session, def);
	if (!program)
		return ERR_PTR(-ENOMEM);
	error = dpb_copy_arrays(&program->program);
	if (!error)
		error = dpb_prepare(&program->program, refusal);
	if (!error)
		error = dpb_make_memory(program);
	if (error) {
		dpb_program_free(program);
		return ERR_PTR(error);
	}
	dpb_grow_globals(program);
	dpb_publish(program);
	return program;
}

/**
 * dpb_load() - load a program
 * @session: of the device
 * @to: struct dprobes_load of the caller
 *
 * Return: a descriptor, or
 * * -EFAULT
 * * -EINVAL - a size of rings that cannot be
 * * -EBADMSG - the program is refused; the caller's structure says why
 * * -ENOMEM, -EMFILE
 */
int dpb_load(struct dpb_session *session, struct dprobes_load __user *to)
{
	struct dp_refusal refusal = { DPROBES_OK, 0 };
	struct dpb_program *program;
	struct dprobes_load def;
	int fd;

	if (copy_from_user(&def, to, sizeof(def)))
		return -EFAULT;
	if (def.ring < PAGE_SIZE || def.ring > DPB_RING_MOST ||
	    !is_power_of_2(def.ring))
		return -EINVAL;
	program = dpb_make(session, &def, &refusal);
	if (IS_ERR(program)) {
		if (PTR_ERR(program) == -EBADMSG &&
		    (put_user(refusal.reason, &to->refused) ||
		     put_user(refusal.where, &to->where)))
			return -EFAULT;
		return PTR_ERR(program);
	}
	fd = dpb_fails() ? -EMFILE :
	     anon_inode_getfd("dprobes-program", &dpb_program_fops, program,
			      O_RDWR | O_CLOEXEC);
	if (fd < 0)
		dpb_program_free(program);
	return fd;
}

/* -- the descriptor -------------------------------------------------------- */

static int dpb_program_release(struct inode *inode, struct file *file)
{
	dpb_program_free(file->private_data);
	return 0;
}

/*
 * Whether there are records; if not, the next one wakes who waits.  Hits look
 * at @wanted after they have written, this looks at the rings after it has set
 * @wanted.  One wake-up for each look: a probe in what is done to wake somebody
 * does not do it again and again.
 */
static bool dpb_has_records(struct dpb_program *program)
{
	int cpu;

	WRITE_ONCE(program->wanted, 1);
	/* Pairs with dpb_wake(). */
	smp_mb();
	for_each_possible_cpu(cpu)
		if (!dpb_ring_empty(&program->cpus[cpu]->ring))
			return true;
	return false;
}

static ssize_t dpb_read_rings(struct dpb_program *program, char __user *to,
			      size_t room)
{
	ssize_t done = 0, got;
	int cpu;

	lockdep_assert_held(&program->reading);
	for_each_possible_cpu(cpu) {
		got = dpb_ring_read(&program->cpus[cpu]->ring, to + done,
				    room - done);
		if (got < 0)
			return done ? done : got;
		done += got;
	}
	return done;
}

static ssize_t dpb_program_read(struct file *file, char __user *to, size_t room,
				loff_t *offset)
{
	struct dpb_program *program = file->private_data;
	ssize_t done;

	for (;;) {
		if (mutex_lock_interruptible(&program->reading))
			return -ERESTARTSYS;
		done = dpb_read_rings(program, to, room);
		mutex_unlock(&program->reading);
		if (done)
			return done;
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		if (wait_event_interruptible(program->wait,
					     dpb_has_records(program)))
			return -ERESTARTSYS;
	}
}

static __poll_t dpb_program_poll(struct file *file, poll_table *table)
{
	struct dpb_program *program = file->private_data;

	poll_wait(file, &program->wait, table);
	return dpb_has_records(program) ? EPOLLIN | EPOLLRDNORM : 0;
}

static int dpb_get_vars(const u64 *words, u32 count, u64 __user *to)
{
	u64 *copy = dpb_fails() ? NULL :
		    kmalloc_array(count, sizeof(*copy), GFP_KERNEL_ACCOUNT);
	int error = 0;
	u32 i;

	if (!copy)
		return -ENOMEM;
	for (i = 0; i < count; i++)
		copy[i] = READ_ONCE(words[i]);
	if (copy_to_user(to, copy, count * sizeof(*copy)))
		error = -EFAULT;
	kfree(copy);
	return error;
}

static int dpb_set_vars(u64 *words, u32 count, const u64 __user *from)
{
	u64 *copy = dpb_fails() ? ERR_PTR(-ENOMEM) :
		    memdup_user(from, count * sizeof(*copy));
	u32 i;

	if (IS_ERR(copy))
		return PTR_ERR(copy);
	for (i = 0; i < count; i++)
		WRITE_ONCE(words[i], copy[i]);
	kfree(copy);
	return 0;
}

/* All of the variables exist, and can be copied, or nothing is done. */
static int dpb_vars(struct dpb_program *program, const struct dprobes_vars *vars,
		    bool set)
{
	struct dp_program *code = &program->program;
	u64 *words = vars->global ? code->globals : code->locals;
	u64 __user *user = u64_to_user_ptr(vars->words);
	u32 size = vars->global ? READ_ONCE(*code->globals_count) :
				  code->def.vars;

	if (vars->global > 1 || vars->pad || vars->first > size ||
	    vars->count > size - vars->first)
		return -EINVAL;
	if (set)
		return dpb_set_vars(words + vars->first, vars->count, user);
	return dpb_get_vars(words + vars->first, vars->count, user);
}

static void dpb_stats(const struct dpb_program *program,
		      struct dprobes_stats *stats)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		const struct dpb_ring *ring = &program->cpus[cpu]->ring;

		stats->written += READ_ONCE(ring->written);
		stats->lost += READ_ONCE(ring->lost);
	}
}

static long dpb_program_ioctl(struct file *file, unsigned int request,
			      unsigned long argument)
{
	struct dpb_program *program = file->private_data;
	void __user *user = (void __user *)argument;
	union {
		struct dprobes_attach attach;
		struct dprobes_query query;
		struct dprobes_vars vars;
		struct dprobes_stats stats;
		struct dprobes_contents contents;
	} copy = {};
	size_t size = _IOC_SIZE(request);
	int error = 0;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (_IOC_TYPE(request) != DPROBES_IOC || size > sizeof(copy))
		return -ENOTTY;
	if ((_IOC_DIR(request) & _IOC_WRITE) && copy_from_user(&copy, user, size))
		return -EFAULT;
	switch (request) {
	case DPROBES_ATTACH:
		error = dpb_attach(program, &copy.attach);
		break;
	case DPROBES_QUERY:
		error = dpb_query(program, &copy.query);
		break;
	case DPROBES_GETVARS:
	case DPROBES_SETVARS:
		error = dpb_vars(program, &copy.vars, request == DPROBES_SETVARS);
		break;
	case DPROBES_STATS:
		dpb_stats(program, &copy.stats);
		break;
	case DPROBES_DETACH:
		dpb_detach(program);
		break;
	case DPROBES_CONTENTS:
		error = dpb_contents(program, &copy.contents);
		break;
	default:
		return -ENOTTY;
	}
	if (!error && (_IOC_DIR(request) & _IOC_READ) &&
	    copy_to_user(user, &copy, size))
		return -EFAULT;
	return error;
}

static const struct file_operations dpb_program_fops = {
	.owner = THIS_MODULE,
	.release = dpb_program_release,
	.read = dpb_program_read,
	.poll = dpb_program_poll,
	.unlocked_ioctl = dpb_program_ioctl,
};
