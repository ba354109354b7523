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

#include "bridge.h"

/* The kernel calls it in the task that was hit, which could sleep. */
static int dpb_file_hit(struct uprobe_consumer *consumer, struct pt_regs *regs)
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
	struct inode *inode = d_real_inode(place->file.dentry);
	int error;

	lockdep_assert_held(&place->program->lock);
	memset(&place->consumer, 0, sizeof(place->consumer));
	place->consumer.handler = dpb_file_hit;
	error = dpb_fails() ? -ENOMEM :
		uprobe_register(inode, place->offset, &place->consumer);
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
	uprobe_unregister(d_real_inode(place->file.dentry), place->offset,
			  &place->consumer);
	path_put(&place->file);
}
