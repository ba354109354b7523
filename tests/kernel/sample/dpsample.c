// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A module to be probed: its init, a function, a variable.
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

static bool fail;
module_param(fail, bool, 0);
MODULE_PARM_DESC(fail, "its init fails, after all that it does");

/* Not static: the compiler leaves names and arguments as they are. */
int dpsample_step(int by);
int dpsample_begin(void);
extern u64 dpsample_words[2];

static int dpsample_total;
u64 dpsample_words[2];

/* Writes the one variable, and reads the other. */
noinline int dpsample_step(int by)
{
	WRITE_ONCE(dpsample_total, READ_ONCE(dpsample_total) + by);
	return READ_ONCE(dpsample_words[1]) + by;
}

static int dpsample_set(const char *text, const struct kernel_param *param)
{
	int by, error = kstrtoint(text, 0, &by);

	if (!error)
		dpsample_step(by);
	return error;
}

static int dpsample_get(char *text, const struct kernel_param *param)
{
	return sprintf(text, "%d\n", READ_ONCE(dpsample_total));
}

static const struct kernel_param_ops dpsample_ops = {
	.set = dpsample_set,
	.get = dpsample_get,
};
module_param_cb(step, &dpsample_ops, NULL, 0600);
MODULE_PARM_DESC(step, "what is added to the total; read: the total");

noinline int __init dpsample_begin(void)
{
	return dpsample_step(1);
}

static int __init dpsample_init(void)
{
	dpsample_begin();
	return fail ? -ENXIO : 0;
}

static void __exit dpsample_exit(void)
{
	dpsample_step(-1);
}

module_init(dpsample_init);
module_exit(dpsample_exit);
MODULE_DESCRIPTION("What the tests of dprobes.ko probe");
MODULE_LICENSE("GPL");
