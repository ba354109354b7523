// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The instructions on maps: gathering a key, and what is done at it.
 *
 * That the key that is open is one of the map's is proven before (keys.c).
 */
#include "machine.h"

#ifdef __KERNEL__
#include <asm/barrier.h>
#endif

/* Nanoseconds of a millisecond. */
#define DP_MILLISECOND 1000000ULL

/* -- the key --------------------------------------------------------------- */

/* Begin an item of so many bytes, which have zeros behind them; NULL: no room. */
static u8 *dp_key_item(struct dp_machine *m, u64 prefix, u32 size)
{
	u32 whole = (size + 7) & ~7U;
	u8 *to = m->key + m->key_size;

	if (whole + 8 > DP_KEY_BYTES - m->key_size)
		return NULL;
	memcpy(to, &prefix, sizeof(prefix));
	memset(to + 8 + size, 0, whole - size);
	m->key_size += 8 + whole;
	return to + 8;
}
NOKPROBE_SYMBOL(dp_key_item);

static enum dp_step dp_key_words(struct dp_machine *m, u32 count)
{
	u64 word;
	u8 *to;

	while (count--) {
		word = dp_pop(m);
		to = dp_key_item(m, DP_IS_WORD, sizeof(word));
		if (to)
			memcpy(to, &word, sizeof(word));
	}
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_key_words);

static enum dp_step dp_key_comm(struct dp_machine *m)
{
	u32 size = 0;
	u8 comm[16];
	u8 *to;

	dp_env_comm(m->env, comm);
	while (size < sizeof(comm) && comm[size])
		size++;
	to = dp_key_item(m, size, size);
	if (to)
		memcpy(to, comm, size);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_key_comm);

static enum dp_step dp_key_string(struct dp_machine *m)
{
	u64 address = dp_pop(m), length = dp_pop(m);
	u32 room = DP_STRING_BYTES - m->key_strings, wanted, size, end;
	u8 *to = m->key + m->key_size + 8;

	dp_charge(m, (length < DP_STRING_BYTES ? length : DP_STRING_BYTES) >> 6);
	wanted = length < room + 1 ? length : room + 1;
	/* It is read to where it stays; that there is room is proven. */
	if (m->key_size + 8 + wanted > DP_KEY_BYTES)
		return DP_NEXT;
	size = dp_read(m, address, to, wanted);
	for (end = 0; end < size && to[end]; end++)
		;
	if (end == size && size < wanted)
		return dp_raise(m, DP_EX_INVALID_ADDR, address + size, 0);
	if (end > room)
		return dp_raise(m, DP_EX_INVALID_OPERAND, DP_OPERAND_IS_KEY,
				length);
	dp_key_item(m, end, end);
	m->key_strings += end;
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_key_string);

/* A stack stands behind a NUL, which no string has; one without room is so. */
static enum dp_step dp_key_kstack(struct dp_machine *m, u32 depth)
{
	static const u8 none[] = { 0, DP_END_ROOM, 0, 0 };
	u32 room = DP_STRING_BYTES - m->key_strings, size = 0;
	u8 *to = m->key + m->key_size + 8;

	dp_charge(m, DP_FRAME_COST * depth);
	if (room < sizeof(none))
		room = sizeof(none);
	/* It is packed where it stays; that there is room is proven. */
	if (m->key_size + 8 + room > DP_KEY_BYTES)
		return DP_NEXT;
	size = dp_put_kstack(m, to + 1, room - 1, depth) + 1;
	*to = 0;
	if (size == 1) {
		memcpy(to, none, sizeof(none));
		size = sizeof(none);
	}
	dp_key_item(m, size, size);
	m->key_strings += size;
	if (m->key_strings > DP_STRING_BYTES)
		m->key_strings = DP_STRING_BYTES;
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_key_kstack);

/* -- adding ---------------------------------------------------------------- */

static bool dp_below(const struct dprobes_map *def, u64 one, u64 other)
{
	if (def->flags & DPROBES_SIGNED)
		return (s64)one < (s64)other;
	return one < other;
}
NOKPROBE_SYMBOL(dp_below);

/* The bucket of a word: -1 is number 0. */
static u32 dp_bucket(const struct dp_map *map, u64 word)
{
	const struct dprobes_map *def = &map->def;
	u64 low = def->arguments[0], step = def->arguments[2];
	s32 above;

	if (def->kind == DP_KIND_LHIST) {
		if (dp_below(def, word, low))
			return 0;
		if (!dp_below(def, word, def->arguments[1]))
			return map->cell_words - 1;
		return (word - low) / step + 1;
	}
	if (dp_below(def, word, 0))
		return 0;
	above = word ? 63 - __builtin_clzll(word) - (s32)low : 0;
	if (above <= 0)
		return word + 1;
	return ((u32)above << low) + (word >> above) + 1;
}
NOKPROBE_SYMBOL(dp_bucket);

static void dp_add_sum(const struct dprobes_map *def, u64 *sum, u64 word)
{
	sum[0] += word;
	sum[1] += sum[0] < word;
	if (def->flags & DPROBES_SIGNED && (s64)word < 0)
		sum[1]--;
}
NOKPROBE_SYMBOL(dp_add_sum);

/* Add in the interval that it is now. */
static void dp_add_interval(const struct dprobes_map *def, u64 *words,
			    u64 word, u64 now)
{
	u64 number = now / (DP_MILLISECOND * (u64)def->arguments[0]);
	u64 *part = words + 3 * (number % (u64)def->arguments[1]);

	if (part[0] < number + 1) {
		part[0] = number + 1;
		part[1] = 0;
		part[2] = 0;
	}
	if (part[0] == number + 1)
		dp_add_sum(def, part + 1, word);
}
NOKPROBE_SYMBOL(dp_add_interval);

static void dp_add_word(struct dp_machine *m, const struct dp_map *map,
			u64 *words, u64 word)
{
	const struct dprobes_map *def = &map->def;

	switch (def->kind) {
	case DP_KIND_COUNT:
		words[0]++;
		break;
	case DP_KIND_SUM:
		dp_add_sum(def, words, word);
		break;
	case DP_KIND_MIN:
	case DP_KIND_MAX:
		words[0]++;
		if (dp_below(def, word, words[1]) == (def->kind == DP_KIND_MIN))
			words[1] = word;
		break;
	case DP_KIND_AVG:
	case DP_KIND_STATS:
		words[0]++;
		dp_add_sum(def, words + 1, word);
		if (dp_below(def, word, words[3]))
			words[3] = word;
		if (dp_below(def, words[4], word))
			words[4] = word;
		break;
	case DP_KIND_TSERIES:
		dp_add_interval(def, words, word,
				dp_env_fact(m->env, DP_FACT_TIME));
		break;
	default:
		words[dp_bucket(map, word)]++;
		break;
	}
}
NOKPROBE_SYMBOL(dp_add_word);

static void dp_lose(const struct dp_machine *m, struct dp_bank *bank)
{
	struct dp_cells *cells = bank->cells[m->cpu];

	WRITE_ONCE(cells->lost, cells->lost + 1);
}
NOKPROBE_SYMBOL(dp_lose);

static void dp_add(struct dp_machine *m, const struct dp_map *map,
		   struct dp_bank *bank, struct dp_key key, u64 word)
{
	u64 *cell = NULL;
	u32 number;

	if (dp_bank_find(map, bank, key, &number))
		cell = dp_cell(map, bank, number, m->cpu);
	if (!cell) {
		dp_lose(m, bank);
		return;
	}
	WRITE_ONCE(*cell, *cell + 1);
	smp_wmb();
	dp_add_word(m, map, cell + DP_CELL_HEAD, word);
	/* Pairs with dp_bank_cell(). */
	smp_store_release(cell, *cell + 1);
}
NOKPROBE_SYMBOL(dp_add);

/* -- instructions ---------------------------------------------------------- */

static enum dp_step dp_value(struct dp_machine *m, const struct dp_map *map,
			     struct dp_bank *bank, struct dp_key key, u8 opcode)
{
	enum dp_value what;
	u64 word = 0;

	switch (opcode) {
	case DP_OP_MGET_MAP:
		what = DP_VALUE_GET;
		break;
	case DP_OP_MHAS_MAP:
		what = DP_VALUE_HAS;
		break;
	case DP_OP_MSET_MAP:
		what = DP_VALUE_SET;
		word = dp_pop(m);
		break;
	case DP_OP_MINC_MAP:
		what = DP_VALUE_COUNT;
		break;
	default:
		what = DP_VALUE_DELETE;
		break;
	}
	if (!dp_bank_value(map, bank, key, what, &word))
		dp_lose(m, bank);
	if (what == DP_VALUE_GET || what == DP_VALUE_HAS)
		dp_push(m, word);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_value);

enum dp_step dp_maps(struct dp_machine *m, u8 opcode)
{
	struct dp_key key = { m->key, m->key_size };
	u64 operand = dp_operand(m->program->code, m->pc);
	const struct dp_map *map;
	struct dp_bank *bank;

	switch (opcode) {
	case DP_OP_KEY_COUNT:
		return dp_key_words(m, operand);
	case DP_OP_KEY_STR:
		return dp_key_string(m);
	case DP_OP_KEY_COMM:
		return dp_key_comm(m);
	case DP_OP_KEY_KSTACK:
		return dp_key_kstack(m, DP_USUAL_FRAMES);
	case DP_OP_KEY_KSTACK_DEPTH:
		return dp_key_kstack(m, operand);
	default:
		break;
	}
	map = &m->program->maps[operand];
	/* Pairs with who puts an empty one there. */
	bank = smp_load_acquire(&map->bank);
	dp_close_key(m);
	if (map->def.kind == DP_KIND_VALUE)
		return dp_value(m, map, bank, key, opcode);
	dp_add(m, map, bank, key, opcode == DP_OP_MADD_MAP ? dp_pop(m) : 0);
	return DP_NEXT;
}
NOKPROBE_SYMBOL(dp_maps);
