// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The maps of a program: their memory, and how they are read and reset.
 *
 * Hits find a map's bank and work on it with preemption off (bank.c in interp/
 * says how they keep out of each other's way).  To reset a map, an empty bank
 * is put in its place; when no hit can be at the old one any more, that is read
 * and freed.  So no hit waits, and each update is in one of the two.
 */
#include <linux/mm.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "bridge.h"

/* Bytes for the keys of a map, and for its cells on all CPUs, at most. */
#define DPB_KEYS_MOST (8U << 20)
#define DPB_CELLS_MOST (16U << 20)

static void *dpb_map_memory(size_t size)
{
	if (dpb_fails())
		return NULL;
	return __vmalloc(size, GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN);
}

static void dpb_bank_free(struct dp_bank *bank)
{
	int cpu;

	if (!bank)
		return;
	for_each_possible_cpu(cpu)
		vfree(bank->cells[cpu]);
	vfree(bank);
}

/* An empty one; NULL: there is no memory. */
static struct dp_bank *dpb_bank_make(const struct dp_map *map)
{
	void *memory = dpb_map_memory(dp_bank_size(map, nr_cpu_ids));
	struct dp_bank *bank;
	int cpu;

	if (!memory)
		return NULL;
	bank = dp_bank_init(map, nr_cpu_ids, get_random_u64(), memory);
	for_each_possible_cpu(cpu) {
		memory = dpb_map_memory(dp_cells_size(map));
		if (!memory) {
			dpb_bank_free(bank);
			return NULL;
		}
		bank->cells[cpu] = dp_cells_init(map, memory);
	}
	return bank;
}

/**
 * dpb_maps_make() - make the maps of a program, empty
 * @code: it is verified
 *
 * Return: 0 or -ENOMEM; dpb_maps_free() frees what was made.
 */
int dpb_maps_make(struct dp_program *code)
{
	u32 i;

	for (i = 0; i < code->def.map_count; i++) {
		struct dp_map *map = &code->maps[i];

		dp_map_lay_out(map, DPB_KEYS_MOST,
			       DPB_CELLS_MOST / num_possible_cpus());
		map->bank = dpb_bank_make(map);
		if (!map->bank)
			return -ENOMEM;
	}
	return 0;
}

/**
 * dpb_maps_free() - free the maps of a program, as far as they were made
 * @code: no hit of it can come
 */
void dpb_maps_free(struct dp_program *code)
{
	u32 i;

	for (i = 0; code->maps && i < code->def.map_count; i++)
		dpb_bank_free(code->maps[i].bank);
	kvfree(code->maps);
}

/* -- reading --------------------------------------------------------------- */

/**
 * struct dpb_reading - a map that is being read
 * @map: which one
 * @entry: room for an entry
 * @words: room for two cells
 * @to: where the next key goes
 * @left: bytes there
 * @keys: how many were read
 */
struct dpb_reading {
	const struct dp_map *map;
	struct dp_entry *entry;
	u64 *words;
	u8 __user *to;
	u64 left;
	u32 keys;
};

/* Bytes that a key and its cell take at most. */
static u64 dpb_entry_most(const struct dp_map *map)
{
	return sizeof(struct dprobes_entry) + map->entry_bytes -
	       sizeof(struct dp_entry) + 8 * (u64)max(map->cell_words, 1U);
}

static int dpb_put_out(struct dpb_reading *reading, const void *from, u32 size)
{
	if (size > reading->left)
		return -EMSGSIZE;
	if (copy_to_user(reading->to, from, size))
		return -EFAULT;
	reading->to += size;
	reading->left -= size;
	return 0;
}

static int dpb_read_entry(struct dpb_reading *reading, struct dp_bank *bank,
			  u32 number)
{
	const struct dp_map *map = reading->map;
	struct dprobes_entry head = { .words = map->cell_words };
	int error;

	if (!dp_bank_entry(map, bank, number, reading->entry))
		return 0;
	head.key_size = reading->entry->size;
	if (!head.words) {
		head.words = 1;
		reading->words[0] = reading->entry->word;
	} else if (!dp_bank_cell(map, bank, number, nr_cpu_ids, reading->words,
				 reading->words + map->cell_words)) {
		head.words = 0;
	}
	reading->keys++;
	error = dpb_put_out(reading, &head, sizeof(head));
	if (!error)
		error = dpb_put_out(reading, reading->entry->key, head.key_size);
	if (!error)
		error = dpb_put_out(reading, reading->words, 8 * head.words);
	return error;
}

static int dpb_read_bank(struct dpb_reading *reading, struct dp_bank *bank)
{
	u32 used = dp_bank_used(bank), number;
	int error = 0;

	for (number = 1; number <= used && !error; number++) {
		error = dpb_read_entry(reading, bank, number);
		cond_resched();
	}
	return error;
}

/* -- resetting ------------------------------------------------------------- */

/* Have the keys of one bank in another one; where there is no room, fewer. */
static void dpb_enter_keys(const struct dpb_reading *reading,
			   struct dp_bank *from, struct dp_bank *to)
{
	u32 used = dp_bank_used(from), number;

	for (number = 1; number <= used; number++) {
		struct dp_entry *entry = reading->entry;

		if (!dp_bank_entry(reading->map, from, number, entry))
			continue;
		/* What is hit meanwhile on this CPU would want the same slot. */
		preempt_disable();
		dpb_enter();
		dp_bank_enter(reading->map, to, entry->key, entry->size);
		dpb_leave();
		preempt_enable();
		cond_resched();
	}
}

/* Read a map, and begin it anew; nothing is done if an error is returned. */
static int dpb_reset(struct dpb_reading *reading, struct dp_map *map,
		     struct dprobes_contents *contents, u64 bound)
{
	struct dp_bank *before = map->bank, *fresh;
	int error;

	/* What is read afterwards is nowhere else: it must not fail then. */
	if (clear_user(reading->to, bound))
		return -EFAULT;
	fresh = dpb_bank_make(map);
	if (!fresh)
		return -ENOMEM;
	if (contents->reset == DPROBES_ZERO)
		dpb_enter_keys(reading, before, fresh);
	/* Pairs with dp_maps(): who finds it finds all of it. */
	smp_store_release(&map->bank, fresh);
	/* Hits have preemption off: none is at the old one behind this. */
	synchronize_rcu();
	if (contents->reset == DPROBES_ZERO)
		dpb_enter_keys(reading, before, fresh);
	error = dpb_read_bank(reading, before);
	contents->lost = dp_bank_lost(before, nr_cpu_ids);
	dpb_bank_free(before);
	return error;
}

static int dpb_read(struct dpb_reading *reading, struct dp_map *map,
		    struct dprobes_contents *contents, u64 bound)
{
	int error;

	if (contents->reset != DPROBES_KEEP)
		return dpb_reset(reading, map, contents, bound);
	error = dpb_read_bank(reading, map->bank);
	contents->lost = dp_bank_lost(map->bank, nr_cpu_ids);
	return error;
}

/**
 * dpb_contents() - read a map, and reset it if asked to
 * @program: which of it
 * @contents: of the caller
 *
 * Return: 0, or
 * * -EINVAL - there is no such map, or no such way to reset it; a pad
 * * -EMSGSIZE - there is too little room
 * * -EFAULT, -ENOMEM
 */
int dpb_contents(struct dpb_program *program, struct dprobes_contents *contents)
{
	struct dp_program *code = &program->program;
	struct dpb_reading reading = {
		.to = u64_to_user_ptr(contents->data),
		.left = contents->room,
	};
	struct dp_map *map;
	int error = -ENOMEM;
	u64 bound;

	if (contents->map >= code->def.map_count || contents->pad ||
	    contents->reset > DPROBES_ZERO)
		return -EINVAL;
	map = &code->maps[contents->map];
	bound = map->entries * dpb_entry_most(map);
	if (!contents->room) {
		mutex_lock(&program->map_lock);
		contents->lost = dp_bank_lost(map->bank, nr_cpu_ids);
		contents->keys = dp_bank_keys(map, map->bank);
		mutex_unlock(&program->map_lock);
		contents->size = bound;
		return 0;
	}
	if (contents->room < bound)
		return -EMSGSIZE;
	reading.map = map;
	if (!dpb_fails())
		reading.entry = kmalloc(map->entry_bytes, GFP_KERNEL_ACCOUNT);
	if (!dpb_fails())
		reading.words = kvcalloc(2, 8 * ((size_t)map->cell_words + 1),
					 GFP_KERNEL_ACCOUNT);
	mutex_lock(&program->map_lock);
	if (reading.entry && reading.words)
		error = dpb_read(&reading, map, contents, bound);
	mutex_unlock(&program->map_lock);
	kfree(reading.entry);
	kvfree(reading.words);
	contents->size = contents->room - reading.left;
	contents->keys = reading.keys;
	return error;
}
