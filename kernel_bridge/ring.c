// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The records of one program on one CPU: a ring of bytes.
 *
 * It has one writer (a hit; dpb_enter() lets no second one come between on
 * this CPU) and one reader (under dpb_program.reading), so it needs no lock.
 * The kernel's own ring_buffer would do as well, but its entries end at a
 * page, and a record has up to 160 KiB.
 */
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "bridge.h"

/* How far the writer or the reader is, with what comes behind the record. */
struct dpb_cursor {
	struct dpb_ring *ring;
	u64 at;
};

/**
 * dpb_ring_init() - make an empty ring
 * @ring: all zeros
 * @size: bytes, a power of two
 *
 * Return: 0 or -ENOMEM.
 */
int dpb_ring_init(struct dpb_ring *ring, u32 size)
{
	if (dpb_fails())
		return -ENOMEM;
	ring->data = __vmalloc(size, GFP_KERNEL_ACCOUNT | __GFP_ZERO |
				     __GFP_NOWARN);
	ring->size = size;
	return ring->data ? 0 : -ENOMEM;
}

/**
 * dpb_ring_free() - free what dpb_ring_init() has made, if it has
 * @ring: nobody uses it any more
 */
void dpb_ring_free(struct dpb_ring *ring)
{
	vfree(ring->data);
}

static void dpb_put(struct dpb_cursor *cursor, const void *from, u32 size)
{
	struct dpb_ring *ring = cursor->ring;
	u32 at = cursor->at & (ring->size - 1);
	u32 first = min(size, ring->size - at);

	memcpy(ring->data + at, from, first);
	memcpy(ring->data, from + first, size - first);
	cursor->at += size;
}
NOKPROBE_SYMBOL(dpb_put);

/**
 * dpb_ring_write() - append a record
 * @cpu: with the ring of this CPU, and what the hit has logged
 * @record: complete but for its size
 * @out: how much was logged
 *
 * Context: between dpb_enter() and dpb_leave().
 * Return: whether there was room; if not, it is counted as lost.
 */
bool dpb_ring_write(struct dpb_cpu *cpu, const struct dprobes_record *record,
		    const struct dp_outcome *out)
{
	static const u8 zeros[8];
	const struct dp_buffers *buffers = &cpu->buffers;
	struct dpb_ring *ring = &cpu->ring;
	struct dpb_cursor cursor = { ring, ring->head };
	struct dprobes_record head = *record;
	u32 raw = out->raw_count * sizeof(struct dprobes_raw);
	u32 whole = sizeof(head) + raw + record->log_size;

	head.size = ALIGN(whole, 8);
	/* Pairs with the reader's release: what it has read may be overwritten. */
	if (head.size > ring->size - (ring->head - smp_load_acquire(&ring->tail))) {
		WRITE_ONCE(ring->lost, ring->lost + 1);
		return false;
	}
	dpb_put(&cursor, &head, sizeof(head));
	dpb_put(&cursor, buffers->raw, raw);
	dpb_put(&cursor, buffers->log, out->log_size);
	dpb_put(&cursor, buffers->trace, out->trace_size);
	dpb_put(&cursor, cpu->dump, cpu->dump_size);
	dpb_put(&cursor, zeros, head.size - whole);
	WRITE_ONCE(ring->written, ring->written + 1);
	/* Pairs with the reader's acquire: it sees all of the record. */
	smp_store_release(&ring->head, cursor.at);
	return true;
}
NOKPROBE_SYMBOL(dpb_ring_write);

/**
 * dpb_ring_empty() - whether there is no record
 * @ring: any
 *
 * Return: as the name says, at this moment.
 */
bool dpb_ring_empty(const struct dpb_ring *ring)
{
	return READ_ONCE(ring->head) == READ_ONCE(ring->tail);
}

static int dpb_get(struct dpb_cursor *cursor, char __user *to, u32 size)
{
	struct dpb_ring *ring = cursor->ring;
	u32 at = cursor->at & (ring->size - 1);
	u32 first = min(size, ring->size - at);

	if (copy_to_user(to, ring->data + at, first) ||
	    copy_to_user(to + first, ring->data, size - first))
		return -EFAULT;
	cursor->at += size;
	return 0;
}

/**
 * dpb_ring_read() - take records out
 * @ring: any
 * @to: where to
 * @room: bytes there
 *
 * Context: dpb_program.reading is held.
 * Return: bytes of the records, 0 if there are none; -EMSGSIZE: no room for
 * the first; -EFAULT: it stays.
 */
ssize_t dpb_ring_read(struct dpb_ring *ring, char __user *to, size_t room)
{
	struct dpb_cursor cursor = { ring, ring->tail };
	size_t done = 0;

	/* Pairs with the writer's release. */
	while (cursor.at != smp_load_acquire(&ring->head)) {
		/* Sizes are multiples of 8: the first word is never divided. */
		u32 size = *(u32 *)(ring->data + (cursor.at & (ring->size - 1)));

		if (size > room - done)
			return done ? done : -EMSGSIZE;
		if (dpb_get(&cursor, to + done, size))
			return done ? done : -EFAULT;
		done += size;
		/* Pairs with the writer's acquire. */
		smp_store_release(&ring->tail, cursor.at);
	}
	return done;
}
