// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A module with hooks: a ledger, whose accounts are 0 together.
 *
 * ledger_post comes before an amount is booked, and may have that refused;
 * ledger_posted comes after it.  Nothing here knows who looks.
 *
 *	echo '1 2 50' > /sys/module/dprobes_ledger/parameters/post
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/spinlock.h>

#include "hooks.h"

#define ACCOUNTS 8

/* Protects the accounts. */
static DEFINE_SPINLOCK(lock);
static long accounts[ACCOUNTS];

static bool bug;
module_param(bug, bool, 0600);
MODULE_PARM_DESC(bug, "cents get lost in amounts from 1000 on");

static DPROBES_HOOK(ledger_post, DPROBES_HOOK_RETURNS);
static DPROBES_HOOK(ledger_posted, 0);

static noinline int ledger_book(u32 from, u32 to, long amount)
{
	DPROBES_AT_OR_RETURN(ledger_post, int, from, to, amount);
	spin_lock(&lock);
	accounts[from] -= amount;
	accounts[to] += bug && amount >= 1000 ? amount - amount % 100 : amount;
	DPROBES_AT(ledger_posted, from, to, amount, (unsigned long)accounts,
		   ACCOUNTS);
	spin_unlock(&lock);
	return 0;
}

static int ledger_set(const char *text, const struct kernel_param *param)
{
	long amount;
	u32 from, to;

	if (sscanf(text, "%u %u %ld", &from, &to, &amount) != 3 ||
	    from >= ACCOUNTS || to >= ACCOUNTS)
		return -EINVAL;
	return ledger_book(from, to, amount);
}

static const struct kernel_param_ops ledger_ops = {
	.set = ledger_set,
};
module_param_cb(post, &ledger_ops, NULL, 0200);
MODULE_PARM_DESC(post, "FROM TO AMOUNT: book an amount");

static int __init ledger_init(void)
{
	int error = dprobes_hook_register(&ledger_post);

	if (error)
		return error;
	error = dprobes_hook_register(&ledger_posted);
	if (error)
		dprobes_hook_unregister(&ledger_post);
	return error;
}

static void __exit ledger_exit(void)
{
	dprobes_hook_unregister(&ledger_posted);
	dprobes_hook_unregister(&ledger_post);
}

module_init(ledger_init);
module_exit(ledger_exit);
MODULE_DESCRIPTION("Sample of dprobes: a module with hooks");
MODULE_LICENSE("GPL");
