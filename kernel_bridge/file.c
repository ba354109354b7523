// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Places in files that processes execute, by file and offset: uprobes.
 *
 * Such a probe is in every process that has the file mapped, or comes to map
 * it, from its first instruction on.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/namei.h>
#include <linux/uprobes.h>
#include <linux/version.h>

#include "bridge.h"

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
static int dpb_uprobe_register(struct dpb_place *place)
{
	return uprobe_register(d_real_inode(place->file.dentry), place->offset,
			       &place->consumer);
}

static void dpb_uprobe_unregister(struct dpb_place *place)
{
	uprobe_unregister(d_real_inode(place->file.dentry), place->offset,
			  &place->consumer);
}
#else
static int dpb_uprobe_register(struct dpb_place *place)
{
	place->uprobe = uprobe_register(d_real_inode(place->file.dentry),
					place->offset, 0, &place->consumer);
	return PTR_ERR_OR_ZERO(place->uprobe);
}

static void dpb_uprobe_unregister(struct dpb_place *place)
{
	uprobe_unregister_nosync(place->uprobe, &place->consumer);
	uprobe_unregister_sync();
}
#endif

/* The kernel calls it in the task that was hit, which could sleep. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0)
static int dpb_file_hit(struct uprobe_consumer *consumer, struct pt_regs *regs)
#else
static int dpb_file_hit(struct uprobe_consumer *consumer, struct pt_regs *regs,
			__u64 *data)
#endif
{
	struct dpb_place *place = container_of(consumer, struct dpb_place,
					       consumer);

	preempt_disable();
	dpb_hit(place, regs, NULL);
	preempt_enable();
	return 0;
}

/**
 * dpb_file_find() - take the file of a place
 * @place: the descriptor is its length
 *
 * Its file system is in use until dpb_file_remove().
 *
 * Return: 0, -EBADF; -EINVAL: it is no regular file; -ENOMEM.
 */
int dpb_file_find(struct dpb_place *place)
{
	struct file *file = dpb_fails() ? NULL : fget(place->length);

	lockdep_assert_held(&place->program->lock);
	if (!file)
		return -EBADF;
	place->file = file->f_path;
	path_get(&place->file);
	fput(file);
	if (!d_is_reg(place->file.dentry)) {
		path_put(&place->file);
		return -EINVAL;
	}
	place->address = place->offset;
	return 0;
}

/**
 * dpb_file_enable() - let hits of it come, or give its file back
 * @place: dpb_file_find() was done
 *
 * Return: 0, -ENOMEM; -EADDRNOTAVAIL: no instruction of a file that processes
 * can map, or none that the kernel can do out of its place.
 */
int dpb_file_enable(struct dpb_place *place)
{
	int error;

	lockdep_assert_held(&place->program->lock);
	memset(&place->consumer, 0, sizeof(place->consumer));
	place->consumer.handler = dpb_file_hit;
	error = dpb_fails() ? -ENOMEM : dpb_uprobe_register(place);
	if (!error)
		return 0;
	path_put(&place->file);
	return error == -ENOMEM || error == -EINTR ? error : -EADDRNOTAVAIL;
}

/**
 * dpb_file_remove() - let no more hits of it come
 * @place: it is registered
 *
 * Returns when no task is in its handler.
 */
void dpb_file_remove(struct dpb_place *place)
{
	lockdep_assert_held(&place->program->lock);
	dpb_uprobe_unregister(place);
	path_put(&place->file);
}
