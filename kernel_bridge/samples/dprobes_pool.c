// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A module with a bug, to be hunted: a pool with a name and a limit, from which
 * amounts are taken.
 *
 *	echo backup > /sys/module/dprobes_pool/parameters/name
 *	echo 30 > /sys/module/dprobes_pool/parameters/take
 *
 * The name has room for eight letters.  Nobody looks how many there are, and
 * what is too much lands in the limit, which stands behind it.
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>

#define LETTERS 8

/* Protects the pool. */
static DEFINE_MUTEX(lock);
static struct {
	char name[LETTERS];
	u64 limit;
} pool_state = { "none", 100 };

/* What must not be more is taken: the bug shows here, and comes from elsewhere. */
static noinline int pool_take(u64 amount)
{
	int error;

	mutex_lock(&lock);
	error = amount > pool_state.limit ? -ENOSPC : 0;
	mutex_unlock(&lock);
	return error;
}

static noinline int pool_rename(const char *text)
{
	char *to = pool_state.name;

	mutex_lock(&lock);
	/* The bug. */
	while (*text && *text != '\n')
		WRITE_ONCE(*to++, *text++);
	mutex_unlock(&lock);
	return 0;
}

static int pool_set_name(const char *text, const struct kernel_param *param)
{
	return strlen(text) < 2 * LETTERS ? pool_rename(text) : -EINVAL;
}

static const struct kernel_param_ops name_ops = {
	.set = pool_set_name,
};
module_param_cb(name, &name_ops, NULL, 0200);
MODULE_PARM_DESC(name, "what the pool is called");

static int pool_set_take(const char *text, const struct kernel_param *param)
{
	u64 amount;
	int error = kstrtou64(text, 0, &amount);

	return error ? error : pool_take(amount);
}

static const struct kernel_param_ops take_ops = {
	.set = pool_set_take,
};
module_param_cb(take, &take_ops, NULL, 0200);
MODULE_PARM_DESC(take, "take an amount; ENOSPC: it is above the limit, 100");

static int __init pool_init(void)
{
	return 0;
}

static void __exit pool_exit(void)
{
}

module_init(pool_init);
module_exit(pool_exit);
MODULE_DESCRIPTION("Sample of dprobes: a module with a bug");
MODULE_LICENSE("GPL");
