// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What is in a map: keys, which all CPUs have together, and the cells of each
 * CPU; see struct dp_bank.
 *
 * Nothing is allocated, and nobody waits without end: not in an NMI either.
 */
#include "machine.h"

#ifdef __KERNEL__
#include <linux/atomic.h>
#include <linux/irqflags.h>
#include <asm/barrier.h>
#endif

/* How often something is tried that another CPU is at. */
#define DP_LOOKS 10000

/* Of the hash of a key. */
#define DP_HASH_FACTOR 0x9e3779b97f4a7c15ULL
#define DP_HASH_SHIFT 29

/* -- memory ---------------------------------------------------------------- */

static size_t dp_align(size_t bytes)
{
	return (bytes + 7) & ~(size_t)7;
}

/**
 * dp_bank_size() - how many bytes a bank takes without its cells
 * @map: laid out
 * @cpus: how many there can be
 *
 * Return: bytes.
 */
size_t dp_bank_size(const struct dp_map *map, u32 cpus)
{
	return sizeof(struct dp_bank) + cpus * sizeof(struct dp_cells *) +
	       dp_align(map->slots * sizeof(struct dp_slot)) +
	       (size_t)map->entries * map->entry_bytes;
}

/**
 * dp_bank_init() - make an empty bank
 * @map: laid out
 * @cpus: how many there can be
 * @seed: a number by chance
 * @memory: of dp_bank_size() bytes, all zeros
 *
 * Return: it; its cells are still to come.
 */
struct dp_bank *dp_bank_init(const struct dp_map *map, u32 cpus, u64 seed,
			     void *memory)
{
	struct dp_bank *bank = memory;
	u8 *at = (u8 *)(bank + 1);

	bank->seed = seed;
	bank->cells = (void *)at;
	at += cpus * sizeof(struct dp_cells *);
	bank->slots = (void *)at;
	bank->entries = at + dp_align(map->slots * sizeof(struct dp_slot));
	return bank;
}

/**
 * dp_cells_size() - how many bytes the cells of one CPU take
 * @map: laid out
 *
 * Return: bytes.
 */
size_t dp_cells_size(const struct dp_map *map)
{
	size_t words = (size_t)map->cells * (map->cell_words + DP_CELL_HEAD);

	return sizeof(struct dp_cells) +
	       dp_align(map->cells ? map->entries * sizeof(u32) : 0) +
	       words * sizeof(u64);
}

/**
 * dp_cells_init() - make the cells of one CPU
 * @map: laid out
 * @memory: of dp_cells_size() bytes, all zeros
 *
 * Return: them, none taken.
 */
struct dp_cells *dp_cells_init(const struct dp_map *map, void *memory)
{
	struct dp_cells *cells = memory;
	u8 *at = (u8 *)(cells + 1);

	cells->of = (void *)at;
	at += dp_align(map->cells ? map->entries * sizeof(u32) : 0);
	cells->words = (void *)at;
	return cells;
}

/* One by its number, from 1 on. */
static struct dp_entry *dp_entry(const struct dp_map *map,
				 const struct dp_bank *bank, u32 number)
{
	return (void *)(bank->entries + (size_t)(number - 1) * map->entry_bytes);
}
NOKPROBE_SYMBOL(dp_entry);

/* -- keys ------------------------------------------------------------------ */

static struct dp_slot *dp_slot(const struct dp_map *map, struct dp_bank *bank,
			       struct dp_key key)
{
	u64 hash = bank->seed;
	u32 i;

	for (i = 0; i < key.size; i += 8) {
		hash = (hash ^ dp_number(key.bytes + i, 8)) * DP_HASH_FACTOR;
		hash ^= hash >> DP_HASH_SHIFT;
	}
	/* The upper bits of the last word count, too. */
	hash = (hash ^ hash >> 32) * DP_HASH_FACTOR;
	hash ^= hash >> 32;
	return &bank->slots[hash & (map->slots - 1)];
}
NOKPROBE_SYMBOL(dp_slot);

/* Whose key that is in a slot, from the entry @at on; 0: nobody's. */
static u32 dp_look_up(const struct dp_map *map, const struct dp_bank *bank,
		      u32 at, struct dp_key key)
{
	u32 i;

	for (i = 0; at && i < DP_CHAIN; i++) {
		const struct dp_entry *entry = dp_entry(map, bank, at);

		if (entry->size == key.size &&
		    !memcmp(entry->key, key.bytes, key.size))
			return at;
		at = READ_ONCE(entry->next);
	}
	return 0;
}
NOKPROBE_SYMBOL(dp_look_up);

/* Have a slot alone, with interrupts off; false: another CPU has it. */
static bool dp_take_slot(struct dp_slot *slot, unsigned long *flags)
{
	u32 looks, now;

	raw_local_irq_save(*flags);
	for (looks = 0; looks < DP_LOOKS; looks++) {
		now = READ_ONCE(slot->sequence);
		if (!(now & 1) &&
		    cmpxchg(&slot->sequence, now, now + 1) == now)
			return true;
		cpu_relax();
	}
	raw_local_irq_restore(*flags);
	return false;
}
NOKPROBE_SYMBOL(dp_take_slot);

static void dp_give_slot(struct dp_slot *slot, unsigned long flags)
{
	/* Pairs with the next one's cmpxchg(). */
	smp_store_release(&slot->sequence, slot->sequence + 1);
	raw_local_irq_restore(flags);
}
NOKPROBE_SYMBOL(dp_give_slot);

/* The upper half counts changes: who was late finds another number. */
static u64 dp_free_word(u64 before, u32 first)
{
	return ((before >> 32) + 1) << 32 | first;
}
NOKPROBE_SYMBOL(dp_free_word);

/* An entry that was given back, 0: there is none. */
static u32 dp_take_free(const struct dp_map *map, struct dp_bank *bank)
{
	u32 looks, first, next;
	u64 before;

	for (looks = 0; looks < DP_LOOKS; looks++) {
		before = READ_ONCE(bank->free);
		first = (u32)before;
		if (!first)
			return 0;
		next = READ_ONCE(dp_entry(map, bank, first)->next);
		if (cmpxchg(&bank->free, before,
			    dp_free_word(before, next)) == before)
			return first;
	}
	return 0;
}
NOKPROBE_SYMBOL(dp_take_free);

/* Where nobody gets it back for all the others, one entry is not used again. */
static void dp_give_free(const struct dp_map *map, struct dp_bank *bank,
			 u32 number)
{
	u32 looks;
	u64 before;

	for (looks = 0; looks < DP_LOOKS; looks++) {
		before = READ_ONCE(bank->free);
		WRITE_ONCE(dp_entry(map, bank, number)->next, (u32)before);
		if (cmpxchg(&bank->free, before,
			    dp_free_word(before, number)) == before)
			return;
	}
}
NOKPROBE_SYMBOL(dp_give_free);

static u32 dp_take_entry(const struct dp_map *map, struct dp_bank *bank)
{
	u32 number = dp_take_free(map, bank), looks, used;

	for (looks = 0; !number && looks < DP_LOOKS; looks++) {
		used = READ_ONCE(bank->used);
		if (used == map->entries)
			return 0;
		if (cmpxchg(&bank->used, used, used + 1) == used)
			number = used + 1;
	}
	return number;
}
NOKPROBE_SYMBOL(dp_take_entry);

/* A new key in a slot that is ours; 0: there is no room. */
static u32 dp_add_entry(const struct dp_map *map, struct dp_bank *bank,
			struct dp_slot *slot, struct dp_key key, u64 word)
{
	u32 number = 0;
	struct dp_entry *entry;

	if (key.size <= map->entry_bytes - sizeof(*entry) &&
	    slot->count < DP_CHAIN)
		number = dp_take_entry(map, bank);
	if (!number)
		return 0;
	entry = dp_entry(map, bank, number);
	WRITE_ONCE(entry->sequence, entry->sequence + 1);
	smp_wmb();
	memcpy(entry->key, key.bytes, key.size);
	entry->size = key.size;
	entry->word = word;
	entry->there = 1;
	WRITE_ONCE(entry->next, slot->head);
	/* Pairs with dp_bank_entry(). */
	smp_store_release(&entry->sequence, entry->sequence + 1);
	slot->count++;
	/* Pairs with dp_bank_find(): who finds it finds all of it. */
	smp_store_release(&slot->head, number);
	return number;
}
NOKPROBE_SYMBOL(dp_add_entry);

static void dp_remove_entry(const struct dp_map *map, struct dp_bank *bank,
			    struct dp_slot *slot, u32 number)
{
	struct dp_entry *entry = dp_entry(map, bank, number);
	u32 *to = &slot->head, i;

	for (i = 0; *to != number && i < DP_CHAIN; i++)
		to = &dp_entry(map, bank, *to)->next;
	WRITE_ONCE(*to, entry->next);
	slot->count--;
	WRITE_ONCE(entry->sequence, entry->sequence + 1);
	smp_wmb();
	entry->there = 0;
	smp_store_release(&entry->sequence, entry->sequence + 1);
	dp_give_free(map, bank, number);
}
NOKPROBE_SYMBOL(dp_remove_entry);

/**
 * dp_bank_find() - the entry of a key, which comes in if it is not there
 * @map: no `value`
 * @bank: what is in it
 * @key: of the map's form
 * @number: set to its number
 *
 * Return: whether there is one: else there was no room.
 */
bool dp_bank_find(const struct dp_map *map, struct dp_bank *bank,
		  struct dp_key key, u32 *number)
{
	struct dp_slot *slot = dp_slot(map, bank, key);
	unsigned long flags;

	/* Pairs with dp_add_entry(). */
	*number = dp_look_up(map, bank, smp_load_acquire(&slot->head), key);
	if (*number)
		return true;
	if (!dp_take_slot(slot, &flags))
		return false;
	*number = dp_look_up(map, bank, slot->head, key);
	if (!*number)
		*number = dp_add_entry(map, bank, slot, key, 0);
	dp_give_slot(slot, flags);
	return *number;
}
NOKPROBE_SYMBOL(dp_bank_find);

/* Do it at the entry of a key, 0: which is not there. */
static bool dp_do_value(const struct dp_map *map, struct dp_bank *bank,
			struct dp_slot *slot, struct dp_key key, u32 number,
			enum dp_value what, u64 *word)
{
	struct dp_entry *entry = number ? dp_entry(map, bank, number) : NULL;

	switch (what) {
	case DP_VALUE_GET:
		*word = entry ? entry->word : 0;
		return true;
	case DP_VALUE_HAS:
		*word = !!entry;
		return true;
	case DP_VALUE_SET:
		if (!entry)
			return dp_add_entry(map, bank, slot, key, *word);
		WRITE_ONCE(entry->word, *word);
		return true;
	case DP_VALUE_COUNT:
		if (!entry)
			return dp_add_entry(map, bank, slot, key, 1);
		WRITE_ONCE(entry->word, entry->word + 1);
		return true;
	case DP_VALUE_ENTER:
		return entry || dp_add_entry(map, bank, slot, key, 0);
	default:
		if (entry)
			dp_remove_entry(map, bank, slot, number);
		return true;
	}
}
NOKPROBE_SYMBOL(dp_do_value);

/**
 * dp_bank_value() - do something at a key of a `value`
 * @map: a `value`
 * @bank: what is in it
 * @key: of the map's form
 * @what: what
 * @word: what is set; becomes what is got, or 1 if there is one, else 0
 *
 * Return: whether it could be done: else there was no room, or another CPU was
 * at the slot for too long; what is got is 0 then.
 */
bool dp_bank_value(const struct dp_map *map, struct dp_bank *bank,
		   struct dp_key key, enum dp_value what, u64 *word)
{
	struct dp_slot *slot = dp_slot(map, bank, key);
	unsigned long flags;
	bool done;

	if (!dp_take_slot(slot, &flags)) {
		*word = 0;
		return false;
	}
	done = dp_do_value(map, bank, slot, key,
			   dp_look_up(map, bank, slot->head, key), what, word);
	dp_give_slot(slot, flags);
	return done;
}
NOKPROBE_SYMBOL(dp_bank_value);

/**
 * dp_bank_enter() - have a key in a map, as if nothing had been added at it
 * @map: whose
 * @bank: what is in it
 * @bytes: of the key, packed
 * @size: how many
 *
 * Context: no program can run on this CPU meanwhile.
 * Return: whether it is there: it comes in, or stays as it is.
 */
bool dp_bank_enter(const struct dp_map *map, struct dp_bank *bank,
		   const u8 *bytes, u32 size)
{
	struct dp_key key = { bytes, size };
	u64 unused = 0;
	u32 number;

	if (map->def.kind == DP_KIND_VALUE)
		return dp_bank_value(map, bank, key, DP_VALUE_ENTER, &unused);
	return dp_bank_find(map, bank, key, &number);
}

/* -- cells ----------------------------------------------------------------- */

/**
 * dp_cell_begin() - make a cell to which nothing was added
 * @map: whose
 * @words: @map->cell_words of it, all zeros
 */
void dp_cell_begin(const struct dp_map *map, u64 *words)
{
	bool is_signed = map->def.flags & DPROBES_SIGNED;
	u64 least = is_signed ? ~0ULL >> 1 : ~0ULL, most = ~least;

	switch (map->def.kind) {
	case DP_KIND_MIN:
		words[1] = least;
		break;
	case DP_KIND_MAX:
		words[1] = most;
		break;
	case DP_KIND_STATS:
		words[3] = least;
		words[4] = most;
		break;
	default:
		break;
	}
}
NOKPROBE_SYMBOL(dp_cell_begin);

/**
 * dp_cell() - the cell of an entry on a CPU: its sequence number, and the words
 * @map: no `value`
 * @bank: what is in it
 * @number: of the entry
 * @cpu: where the caller is, in a hit
 *
 * Return: it, NULL: there is no room for one.
 */
u64 *dp_cell(const struct dp_map *map, struct dp_bank *bank, u32 number,
	     u32 cpu)
{
	struct dp_cells *cells = bank->cells[cpu];
	u32 each = map->cell_words + DP_CELL_HEAD, of = cells->of[number - 1];
	u64 *cell;

	if (of)
		return cells->words + (size_t)(of - 1) * each;
	if (cells->used == map->cells)
		return NULL;
	of = ++cells->used;
	cell = cells->words + (size_t)(of - 1) * each;
	dp_cell_begin(map, cell + DP_CELL_HEAD);
	/* Pairs with dp_bank_cell(). */
	smp_store_release(&cells->of[number - 1], of);
	return cell;
}
NOKPROBE_SYMBOL(dp_cell);

/* -- reading --------------------------------------------------------------- */

/**
 * dp_bank_used() - up to which number there may be entries
 * @bank: any
 *
 * Return: that number.
 */
u32 dp_bank_used(const struct dp_bank *bank)
{
	return READ_ONCE(bank->used);
}

/**
 * dp_bank_keys() - how many keys there are
 * @map: whose
 * @bank: what is in it
 *
 * Return: that, about, while programs run.
 */
u32 dp_bank_keys(const struct dp_map *map, const struct dp_bank *bank)
{
	u32 used = dp_bank_used(bank), number, keys = 0;

	for (number = 1; number <= used; number++)
		keys += READ_ONCE(dp_entry(map, bank, number)->there);
	return keys;
}

/**
 * dp_bank_entry() - read an entry while programs may run
 * @map: whose
 * @bank: what is in it
 * @number: of the entry, from 1 to dp_bank_used()
 * @to: becomes a copy, of map->entry_bytes
 *
 * Return: whether it has a key that is in the map.
 */
bool dp_bank_entry(const struct dp_map *map, struct dp_bank *bank, u32 number,
		   struct dp_entry *to)
{
	const struct dp_entry *entry = dp_entry(map, bank, number);
	u32 before;

	do {
		/* Pairs with who changes it: that is soon done. */
		while ((before = smp_load_acquire(&entry->sequence)) & 1)
			cpu_relax();
		memcpy(to, entry, map->entry_bytes);
		smp_rmb();
	} while (READ_ONCE(entry->sequence) != before);
	return to->there;
}

/* Copy a cell of another CPU, or of this one, whole. */
static void dp_copy_cell(const u64 *cell, u64 *to, u32 words)
{
	u64 before;
	u32 i;

	do {
		/* Pairs with dp_add(). */
		while ((before = smp_load_acquire(cell)) & 1)
			cpu_relax();
		for (i = 0; i < words; i++)
			to[i] = READ_ONCE(cell[DP_CELL_HEAD + i]);
		smp_rmb();
	} while (READ_ONCE(*cell) != before);
}

static void dp_merge_sum(u64 *to, const u64 *from)
{
	to[0] += from[0];
	to[1] += from[1] + (to[0] < from[0]);
}

static void dp_merge_extreme(const struct dp_map *map, u64 *to, u64 from,
			     bool least)
{
	bool is_signed = map->def.flags & DPROBES_SIGNED;
	bool below = is_signed ? (s64)from < (s64)*to : from < *to;

	if (from != *to && below == least)
		*to = from;
}

/* Each interval is at its number modulo how many there are. */
static void dp_merge_intervals(const struct dp_map *map, u64 *to,
			       const u64 *from)
{
	u32 i;

	for (i = 0; i < map->cell_words; i += 3) {
		if (from[i] > to[i])
			memcpy(to + i, from + i, 3 * sizeof(*to));
		else if (from[i] == to[i])
			dp_merge_sum(to + i + 1, from + i + 1);
	}
}

static void dp_merge(const struct dp_map *map, u64 *to, const u64 *from)
{
	u32 i;

	switch (map->def.kind) {
	case DP_KIND_SUM:
		dp_merge_sum(to, from);
		break;
	case DP_KIND_MIN:
	case DP_KIND_MAX:
		to[0] += from[0];
		dp_merge_extreme(map, to + 1, from[1],
				 map->def.kind == DP_KIND_MIN);
		break;
	case DP_KIND_AVG:
	case DP_KIND_STATS:
		to[0] += from[0];
		dp_merge_sum(to + 1, from + 1);
		dp_merge_extreme(map, to + 3, from[3], true);
		dp_merge_extreme(map, to + 4, from[4], false);
		break;
	case DP_KIND_TSERIES:
		dp_merge_intervals(map, to, from);
		break;
	default:
		for (i = 0; i < map->cell_words; i++)
			to[i] += from[i];
		break;
	}
}

/**
 * dp_bank_cell() - what all CPUs have in their cells of an entry
 * @map: no `value`
 * @bank: what is in it
 * @number: of the entry
 * @cpus: how many there can be
 * @words: map->cell_words, become that
 * @scratch: as many, to work in
 *
 * Return: whether there was anything.
 */
bool dp_bank_cell(const struct dp_map *map, struct dp_bank *bank, u32 number,
		  u32 cpus, u64 *words, u64 *scratch)
{
	bool found = false;
	u32 cpu, of;

	memset(words, 0, map->cell_words * sizeof(*words));
	dp_cell_begin(map, words);
	for (cpu = 0; cpu < cpus; cpu++) {
		const struct dp_cells *cells = bank->cells[cpu];

		if (!cells)
			continue;
		/* Pairs with dp_cell(). */
		of = smp_load_acquire(&cells->of[number - 1]);
		if (!of)
			continue;
		dp_copy_cell(cells->words + (size_t)(of - 1) *
					    (map->cell_words + DP_CELL_HEAD),
			     scratch, map->cell_words);
		dp_merge(map, words, scratch);
		found = true;
	}
	return found;
}

/**
 * dp_bank_lost() - how many updates there was no room for
 * @bank: any
 * @cpus: how many there can be
 *
 * Return: of all CPUs together.
 */
u64 dp_bank_lost(const struct dp_bank *bank, u32 cpus)
{
	u64 lost = 0;
	u32 cpu;

	for (cpu = 0; cpu < cpus; cpu++)
		if (bank->cells[cpu])
			lost += READ_ONCE(bank->cells[cpu]->lost);
	return lost;
}
