// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A bare kprobe at getppid(2), which counts as a program of three instructions
 * does: what a hit of a program is compared with.  Written to `on`: 1 or 0.
 */
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

static atomic64_t own, shared;
static bool on;

static int count(struct kprobe *kprobe, struct pt_regs *regs)
{
	atomic64_inc(&own);
	atomic64_inc(&shared);
	return 0;
}

static struct kprobe probe;

/* The kernel's lock of this module's parameters is held. */
static int turn(const char *text, const struct kernel_param *param)
{
	bool wanted;
	int error = kstrtobool(text, &wanted);

	if (error || wanted == on)
		return error;
	if (wanted) {
		memset(&probe, 0, sizeof(probe));
		probe.symbol_name = "__x64_sys_getppid";
		probe.pre_handler = count;
		error = register_kprobe(&probe);
	} else {
		unregister_kprobe(&probe);
	}
	if (!error)
		on = wanted;
	return error;
}

static int counted(char *text, const struct kernel_param *param)
{
	return sprintf(text, "%lld\n", atomic64_read(&own));
}

static const struct kernel_param_ops ops = {
	.set = turn,
	.get = counted,
};
module_param_cb(on, &ops, NULL, 0600);

static int __init begin(void)
{
	return 0;
}

static void __exit end(void)
{
	if (on)
		unregister_kprobe(&probe);
}

module_init(begin);
module_exit(end);
MODULE_DESCRIPTION("A bare kprobe, for comparison");
MODULE_LICENSE("GPL");
