// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The heap of a hit: blocks that programs allocate and free by handle.
 */
#include "machine.h"

/* Move what is allocated together, in the order of its handles. */
static void dp_heap_compact(struct dp_machine *m)
{
	struct dp_heap_block *blocks = m->buffers->heap_blocks;
	u8 *heap = m->buffers->heap;
	u32 i, kept = 0, top = 0;

	for (i = 0; i < m->heap_count; i++) {
		struct dp_heap_block block = blocks[i];

		if (!block.live)
			continue;
		memmove(heap + top, heap + block.offset, block.size);
		block.offset = top;
		top += block.size < 8 ? 8 : (block.size + 7) & ~7U;
		blocks[kept++] = block;
	}
	m->heap_count = kept;
	m->heap_top = top;
}
NOKPROBE_SYMBOL(dp_heap_compact);

enum dp_step dp_malloc(struct dp_machine *m)
{
	u64 size = dp_pop(m);
	u32 cost = size < 8 ? 8 : (size + 7) & ~7ULL;
	struct dp_heap_block *block;

	if (size > m->heap_left || cost > m->heap_left)
		return dp_raise(m, DP_EX_HEAP_NOMEM, size, 0);
	/*
	 * The memory is twice what may be allocated, so that as much was
	 * allocated since as is moved now.
	 */
	if (m->heap_top + cost > 2 * m->probe->def.heap)
		dp_heap_compact(m);
	block = &m->buffers->heap_blocks[m->heap_count++];
	block->handle = ++m->heap_handle;
	block->offset = m->heap_top;
	block->size = size;
	block->live = true;
	memset(m->buffers->heap + m->heap_top, 0, size);
	m->heap_top += cost;
	m->heap_left -= cost;
	dp_charge(m, size >> 6);
	dp_push(m, m->heap_handle);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_malloc);

static struct dp_heap_block *dp_heap_find(struct dp_machine *m, u64 handle)
{
	struct dp_heap_block *blocks = m->buffers->heap_blocks;
	u32 low = 0, high = m->heap_count;

	while (low < high) {
		u32 middle = low + (high - low) / 2;

		if (blocks[middle].handle < handle)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == m->heap_count || blocks[low].handle != handle ||
	    !blocks[low].live)
		return NULL;
	return &blocks[low];
}
NOKPROBE_SYMBOL(dp_heap_find);

enum dp_step dp_free(struct dp_machine *m)
{
	u64 handle = dp_pop(m);
	struct dp_heap_block *block = dp_heap_find(m, handle);

	if (!block)
		return dp_raise(m, DP_EX_HEAP_INVALID_HANDLE, handle, 0);
	block->live = false;
	m->heap_left += block->size < 8 ? 8 : (block->size + 7) & ~7U;
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_free);

/* Where a run of numbers is in the heap; NULL: an exception, see @step. */
static u8 *dp_heap_place(struct dp_machine *m, u64 handle, u64 offset, u32 size,
			 enum dp_step *step)
{
	struct dp_heap_block *block = dp_heap_find(m, handle);
	u32 code = DP_EX_HEAP_INVALID_HANDLE;

	if (block) {
		if (offset <= block->size && size <= block->size - offset)
			return m->buffers->heap + block->offset + offset;
		code = DP_EX_HEAP_INVALID_OFFSET;
	}
	*step = dp_raise(m, code, handle, offset);
	return NULL;
}
NOKPROBE_SYMBOL(dp_heap_place);

enum dp_step dp_pushh(struct dp_machine *m, u32 width, u32 count)
{
	u64 offset = dp_pop(m), handle = dp_pop(m);
	enum dp_step step;
	u8 *from;
	u32 i;

	if (count > DP_UNROLL)
		dp_flush(m);
	from = dp_heap_place(m, handle, offset, width * count, &step);
	if (!from)
		return step;
	for (i = count; i--;) {
		u64 word = dp_number(from + i * width, width);

		if (count > DP_UNROLL)
			dp_store(m, m->depth++, word);
		else
			dp_push(m, word);
	}
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_pushh);

enum dp_step dp_poph(struct dp_machine *m, u32 width, u32 count)
{
	u64 offset = dp_pop(m), handle = dp_pop(m);
	struct dp_popped popped;
	enum dp_step step;
	u8 *to;
	u32 i;

	dp_pop_many(m, &popped, count);
	to = dp_heap_place(m, handle, offset, width * count, &step);
	if (!to)
		return step;
	for (i = 0; i < count; i++) {
		u64 word = dp_popped_word(m, &popped, i);

		memcpy(to + i * width, &word, width);
	}
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_poph);
