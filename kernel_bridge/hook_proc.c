// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * /proc/dprobes/hooks: all hooks and their exits; root arms and disarms there.
 *
 * One file, so that what it says belongs together, and so that one write can
 * name several exits: they are armed as a set.
 */
#include <linux/capability.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "bridge.h"

/* Exits that one write can name. */
#define DPB_SET_MOST 16

static struct proc_dir_entry *folder;

static void dpb_name_exit(const struct dprobes_exit *exit, char *name)
{
	if (exit->name)
		strscpy(name, exit->name, DPB_NAME);
	else if (!dpb_name_program(exit, name, DPB_NAME))
		snprintf(name, DPB_NAME, "0x%lx", (unsigned long)exit);
}

static void dpb_show_exit(struct seq_file *to, u32 number,
			  const struct dprobes_exit *exit)
{
	char name[DPB_NAME];

	dpb_name_exit(exit, name);
	seq_printf(to, "  %u %s armed=%d hits=%llu%s%s%s%s\n", number, name,
		   dpb_is_armed(exit), atomic64_read(&exit->hits),
		   exit->flags & DPROBES_EXIT_FIRST ? " first" : "",
		   exit->flags & DPROBES_EXIT_LIFO ? " lifo" : "",
		   exit->flags & DPROBES_EXIT_LAST ? " last" : "",
		   exit->flags & DPROBES_EXIT_PROC ? " proc" : "");
}

static void dpb_show_hook(struct seq_file *to, struct dprobes_hook *hook)
{
	const struct dprobes_exit *exit;
	u64 missed = atomic64_read(&hook->missed);
	u32 number = 0;

	if (hook->symbol)
		missed += READ_ONCE(hook->kprobe.nmissed);
	seq_printf(to, "%u %s hits=%llu missed=%llu", hook->number, hook->name,
		   atomic64_read(&hook->hits), missed);
	if (hook->symbol)
		seq_printf(to, " at %s+0x%x%s", hook->symbol, hook->offset,
			   kprobe_gone(&hook->kprobe) ? " gone" : "");
	seq_printf(to, "%s%s%s\n",
		   hook->flags & DPROBES_HOOK_EXCLUSIVE ? " exclusive" : "",
		   hook->flags & DPROBES_HOOK_RETURNS ? " returns" : "",
		   hook->flags & DPROBES_HOOK_VOID ? " void" : "");
	list_for_each_entry(exit, &hook->exits, list)
		dpb_show_exit(to, ++number, exit);
}

static int dpb_hooks_show(struct seq_file *to, void *unused)
{
	struct dprobes_hook *hook;

	mutex_lock(&dpb_hooks_lock);
	list_for_each_entry(hook, &dpb_hooks, list)
		dpb_show_hook(to, hook);
	mutex_unlock(&dpb_hooks_lock);
	return 0;
}

/* The exit that "HOOK/EXIT" names and root may arm; or an error. */
static struct dprobes_exit *dpb_named_exit(char *text)
{
	const char *hook_name = strsep(&text, "/");
	struct dprobes_hook *hook = dpb_find_hook(hook_name);
	struct dprobes_exit *exit;
	char name[DPB_NAME];

	lockdep_assert_held(&dpb_hooks_lock);
	if (!text)
		return ERR_PTR(-EINVAL);
	if (!hook)
		return ERR_PTR(-ENOENT);
	list_for_each_entry(exit, &hook->exits, list) {
		dpb_name_exit(exit, name);
		if (!strcmp(name, text))
			return exit->flags & DPROBES_EXIT_PROC ?
			       exit : ERR_PTR(-EPERM);
	}
	return ERR_PTR(-ENOENT);
}

/* "1 HOOK/EXIT HOOK/EXIT...": all of them are armed together, or none is. */
static int dpb_arm_named(char *text)
{
	struct dprobes_exit *set[DPB_SET_MOST];
	const char *what = strsep(&text, " ");
	u32 count = 0;
	char *name;

	lockdep_assert_held(&dpb_hooks_lock);
	if (strcmp(what, "0") && strcmp(what, "1"))
		return -EINVAL;
	while ((name = strsep(&text, " "))) {
		struct dprobes_exit *found;

		if (count == DPB_SET_MOST)
			return -E2BIG;
		found = dpb_named_exit(name);
		if (IS_ERR(found))
			return PTR_ERR(found);
		set[count++] = found;
	}
	if (!count)
		return -EINVAL;
	return *what == '1' ? dpb_arm_exits(set, count) :
			      dpb_disarm_exits(set, count);
}

static ssize_t dpb_hooks_write(struct file *file, const char __user *from,
			       size_t size, loff_t *at)
{
	char *text;
	int error;

	/* As with the device: a descriptor that was handed on is no right. */
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (size >= PAGE_SIZE)
		return -E2BIG;
	text = memdup_user_nul(from, size);
	if (IS_ERR(text))
		return PTR_ERR(text);
	mutex_lock(&dpb_hooks_lock);
	error = dpb_arm_named(strim(text));
	mutex_unlock(&dpb_hooks_lock);
	kfree(text);
	return error ? error : size;
}

static int dpb_hooks_open(struct inode *inode, struct file *file)
{
	return single_open(file, dpb_hooks_show, NULL);
}

static const struct proc_ops dpb_hooks_ops = {
	.proc_open = dpb_hooks_open,
	.proc_read = seq_read,
	.proc_write = dpb_hooks_write,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
};

/**
 * dpb_hooks_init() - make /proc/dprobes/hooks
 *
 * Return: 0, -ENOMEM.
 */
int dpb_hooks_init(void)
{
	folder = dpb_fails() ? NULL : proc_mkdir("dprobes", NULL);
	if (!folder)
		return -ENOMEM;
	if (!dpb_fails() && proc_create("hooks", 0600, folder, &dpb_hooks_ops))
		return 0;
	dpb_hooks_exit();
	return -ENOMEM;
}

/**
 * dpb_hooks_exit() - undo dpb_hooks_init()
 */
void dpb_hooks_exit(void)
{
	proc_remove(folder);
}
