// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A module with exits on the hooks of another: dprobes_ledger.
 *
 * One refuses amounts that are too high: the function with the hook returns
 * EPERM.  One counts what was booked.  Root arms them, together:
 *
 *	echo 1 ledger_post/limit ledger_posted/volume > /proc/dprobes/hooks
 */
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "hooks.h"

static long most = 5000;
module_param(most, long, 0600);
MODULE_PARM_DESC(most, "an amount above it is refused");

/* Changes in the exit, under the lock of the ledger. */
static long volume;
module_param(volume, long, 0400);
MODULE_PARM_DESC(volume, "all that was booked while the exit was armed");

static enum dprobes_step limit_amount(struct dprobes_exit *exit,
				      struct dprobes_event *event)
{
	if ((long)event->words[2] <= READ_ONCE(most))
		return DPROBES_CONTINUE;
	event->value = -EPERM;
	return DPROBES_RETURN;
}

static enum dprobes_step add_volume(struct dprobes_exit *exit,
				    struct dprobes_event *event)
{
	WRITE_ONCE(volume, volume + (long)event->words[2]);
	return DPROBES_CONTINUE;
}

static struct dprobes_exit limit_exit = {
	.name = "limit",
	.owner = THIS_MODULE,
	.handler = limit_amount,
	.flags = DPROBES_EXIT_FIRST | DPROBES_EXIT_PROC,
};

static struct dprobes_exit volume_exit = {
	.name = "volume",
	.owner = THIS_MODULE,
	.handler = add_volume,
	.flags = DPROBES_EXIT_PROC,
};

static int __init audit_init(void)
{
	int error = dprobes_exit_register("ledger_post", &limit_exit);

	if (error)
		return error;
	error = dprobes_exit_register("ledger_posted", &volume_exit);
	if (error)
		dprobes_exit_deregister(&limit_exit);
	return error;
}

static void __exit audit_exit(void)
{
	dprobes_exit_deregister(&volume_exit);
	dprobes_exit_deregister(&limit_exit);
}

module_init(audit_init);
module_exit(audit_exit);
MODULE_DESCRIPTION("Sample of dprobes: exits on hooks of another module");
MODULE_LICENSE("GPL");
