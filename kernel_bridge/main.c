// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * dprobes.ko: probe programs in the kernel.  The device, and the machines.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/lockdep.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "bridge.h"

/*
 * One machine for each CPU that can come.  The pointers are set before the
 * first probe can be, and stay; a machine belongs to the hit that has made
 * dpb_running 1 on its CPU.
 */
static struct dp_machine **machines;
static DEFINE_PER_CPU(u32, dpb_running);

/* Set when the module is loaded, and never again. */
bool dpb_allow_alter __ro_after_init;
module_param_named(allow_alter, dpb_allow_alter, bool, 0444);
MODULE_PARM_DESC(allow_alter, "programs may alter registers and memory (default 0)");

#ifdef DPB_INJECT
/* The tests are alone: nobody else changes it meanwhile. */
static int fail_at;
module_param(fail_at, int, 0600);
MODULE_PARM_DESC(fail_at, "which of the next steps fails, from 1; 0: none");

bool dpb_fails(void)
{
	return fail_at > 0 && !--fail_at;
}
#endif

/**
 * dpb_enter() - begin a hit
 *
 * Context: preemption off.
 * Return: the machine of this CPU; NULL: a program runs here already.  In both
 * cases dpb_leave() ends it.
 */
struct dp_machine *dpb_enter(void)
{
	lockdep_assert_preemption_disabled();
	if (this_cpu_inc_return(dpb_running) != 1)
		return NULL;
	return machines[raw_smp_processor_id()];
}
NOKPROBE_SYMBOL(dpb_enter);

/**
 * dpb_leave() - end a hit
 */
void dpb_leave(void)
{
	this_cpu_dec(dpb_running);
}
NOKPROBE_SYMBOL(dpb_leave);

static void dpb_session_free(struct kref *ref)
{
	struct dpb_session *session = container_of(ref, struct dpb_session, ref);

	mutex_destroy(&session->lock);
	kfree(session);
}

void dpb_session_put(struct dpb_session *session)
{
	kref_put(&session->ref, dpb_session_free);
}

static int dpb_open(struct inode *inode, struct file *file)
{
	struct dpb_session *session;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	session = kzalloc(sizeof(*session), GFP_KERNEL_ACCOUNT);
	if (!session)
		return -ENOMEM;
	kref_init(&session->ref);
	mutex_init(&session->lock);
	file->private_data = session;
	return nonseekable_open(inode, file);
}

static int dpb_release(struct inode *inode, struct file *file)
{
	dpb_session_put(file->private_data);
	return 0;
}

static long dpb_version(void __user *to)
{
	const struct dprobes_version version = {
		.abi = DPROBES_ABI,
		.isa = DP_ISA_CRC,
	};

	return copy_to_user(to, &version, sizeof(version)) ? -EFAULT : 0;
}

static long dpb_ioctl(struct file *file, unsigned int request,
		      unsigned long argument)
{
	void __user *user = (void __user *)argument;

	/* A descriptor that was handed on gives nobody its opener's rights. */
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	switch (request) {
	case DPROBES_VERSION:
		return dpb_version(user);
	case DPROBES_LOAD:
		return dpb_load(file->private_data, user);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations dpb_fops = {
	.owner = THIS_MODULE,
	.open = dpb_open,
	.release = dpb_release,
	.unlocked_ioctl = dpb_ioctl,
};

static struct miscdevice dpb_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "dprobes",
	.mode = 0600,
	.fops = &dpb_fops,
};

static void dpb_free_machines(void)
{
	int cpu;

	if (!machines)
		return;
	for_each_possible_cpu(cpu)
		vfree(machines[cpu]);
	kfree(machines);
}

static int dpb_make_machines(void)
{
	int cpu;

	if (!dpb_fails())
		machines = kcalloc(nr_cpu_ids, sizeof(*machines), GFP_KERNEL);
	if (!machines)
		return -ENOMEM;
	for_each_possible_cpu(cpu) {
		if (!dpb_fails())
			machines[cpu] = vzalloc_node(sizeof(**machines),
						     cpu_to_node(cpu));
		if (!machines[cpu])
			return -ENOMEM;
	}
	return 0;
}

/* Events of modules before the device: nobody can have placed a probe. */
static int __init dpb_init(void)
{
	int error = dpb_make_machines();

	if (!error)
		error = dpb_hooks_init();
	if (error)
		goto machines;
	error = dpb_modules_init();
	if (error)
		goto hooks;
	error = dpb_fails() ? -ENOMEM : misc_register(&dpb_device);
	if (!error)
		return 0;
	dpb_modules_exit();
hooks:
	dpb_hooks_exit();
machines:
	dpb_free_machines();
	return error;
}

static void __exit dpb_exit(void)
{
	misc_deregister(&dpb_device);
	dpb_modules_exit();
	dpb_hooks_exit();
	dpb_free_machines();
}

module_init(dpb_init);
module_exit(dpb_exit);
MODULE_DESCRIPTION("Dynamic probes: probe programs in the kernel");
MODULE_LICENSE("GPL");
