// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Which key is open at each instruction of a program, proven before it runs.
 *
 * A key is a number, its form: 1, and behind that two bits for each of its
 * items.  It is the same on every path to an instruction; none is open at a
 * call, a `ret` or the end; an exception drops it.  A map has keys of one form.
 */
#include "machine.h"

enum {
	DP_ITEM_IS_WORD,
	DP_ITEM_IS_NAME,
	DP_ITEM_IS_STRING,
	DP_ITEM_IS_STACK,
};

/* The form of a key without items; 0 is none. */
#define DP_NO_ITEMS 1U

/* Bytes of one that has no room for any frame. */
#define DP_LEAST_STACK 4

static u32 dp_items(u32 form)
{
	u32 count = 0;

	while (form > DP_NO_ITEMS) {
		form >>= 2;
		count++;
	}
	return count;
}

/* The form behind an instruction; 0: too many items. */
static u32 dp_form_after(u32 form, const u8 *code, u32 at)
{
	u32 count = 1, item = DP_ITEM_IS_WORD;

	switch (code[at]) {
	case DP_OP_KEY_COUNT:
		count = dp_operand(code, at);
		break;
	case DP_OP_KEY_COMM:
		item = DP_ITEM_IS_NAME;
		break;
	case DP_OP_KEY_STR:
		item = DP_ITEM_IS_STRING;
		break;
	case DP_OP_KEY_KSTACK:
	case DP_OP_KEY_KSTACK_DEPTH:
		item = DP_ITEM_IS_STACK;
		break;
	default:
		return dp_insns[code[at]].operand == DP_OPERAND_MAP ?
			       DP_NO_ITEMS : form;
	}
	if (count > DP_MAX_KEY_ITEMS - dp_items(form))
		return 0;
	while (count--)
		form = form << 2 | item;
	return form;
}

/* Whether an instruction is one on maps of a kind. */
static bool dp_fits(u8 opcode, u32 kind)
{
	switch (opcode) {
	case DP_OP_MINC_MAP:
		return kind == DP_KIND_VALUE || kind == DP_KIND_COUNT;
	case DP_OP_MADD_MAP:
		return kind != DP_KIND_VALUE && kind != DP_KIND_COUNT;
	default:
		return kind == DP_KIND_VALUE;
	}
}

/* A path comes to an offset with a key open; false: another one has another. */
static bool dp_come(struct dp_scratch *scratch, u32 *todo, u32 at, u32 form)
{
	if (!scratch->forms[at]) {
		scratch->forms[at] = form;
		scratch->todo[(*todo)++] = at;
	}
	return scratch->forms[at] == form;
}

/* Whether an instruction may be where a key of that form is open. */
static bool dp_key_is_good(const struct dp_program *program, u32 at, u32 form)
{
	u8 opcode = program->code[at], flow = dp_insns[opcode].flow;
	struct dp_map *map;

	if (flow == DP_FLOW_END || flow == DP_FLOW_RETURN ||
	    flow == DP_FLOW_CALL)
		return form == DP_NO_ITEMS;
	if (dp_insns[opcode].operand != DP_OPERAND_MAP)
		return true;
	map = &program->maps[dp_operand(program->code, at)];
	if (!map->form)
		map->form = form;
	return map->form == form && dp_items(form) == map->def.keys &&
	       dp_fits(opcode, map->def.kind);
}

/* Go on from an instruction; false: the key that is open there cannot be. */
static bool dp_go_on(const struct dp_program *program,
		     struct dp_scratch *scratch, u32 *todo, u32 at)
{
	const u8 *code = program->code;
	const struct dp_insn *insn = &dp_insns[code[at]];
	u32 form = scratch->forms[at], after = dp_form_after(form, code, at);
	bool good = after && dp_key_is_good(program, at, form);

	if (good && insn->operand == DP_OPERAND_LABEL) {
		bool anew = insn->flow == DP_FLOW_CALL ||
			    insn->flow == DP_FLOW_HANDLER;

		good = dp_come(scratch, todo, dp_operand(code, at),
			       anew ? DP_NO_ITEMS : after);
	}
	if (good && insn->flow != DP_FLOW_JUMP &&
	    insn->flow != DP_FLOW_RETURN && insn->flow != DP_FLOW_END)
		good = dp_come(scratch, todo, at + insn->size, after);
	return good;
}

/**
 * dp_check_keys() - whether a program uses its maps as they are
 * @program: all else of it is verified; its maps get their forms
 * @scratch: memory to work in; any content
 *
 * Return: DPROBES_OK, or why not, and where.
 */
struct dp_refusal dp_check_keys(const struct dp_program *program,
				struct dp_scratch *scratch)
{
	struct dp_refusal refusal = { DPROBES_OK, 0 };
	u32 i, at, todo = 0;

	memset(scratch->forms, 0, sizeof(scratch->forms));
	for (i = 0; i < program->def.map_count; i++)
		program->maps[i].form = 0;
	for (i = 0; i < DP_PARTS * program->def.probe_count; i++) {
		at = dp_begin(&program->probes[i / DP_PARTS].def, i % DP_PARTS);
		if (!dp_come(scratch, &todo, at, DP_NO_ITEMS))
			break;
		while (todo) {
			at = scratch->todo[--todo];
			if (!dp_go_on(program, scratch, &todo, at)) {
				refusal.reason = DPROBES_BAD_KEY;
				refusal.where = at;
				return refusal;
			}
		}
	}
	if (i < DP_PARTS * program->def.probe_count) {
		refusal.reason = DPROBES_BAD_KEY;
		refusal.where = at;
	}
	return refusal;
}

/* Parts of a range, the last one maybe shorter. */
static u64 dp_steps(u64 range, u64 step)
{
	return range / step + (range % step != 0);
}

/**
 * dp_map_is_good() - whether there can be a map like that
 * @def: as it was loaded
 *
 * Return: as the name says.
 */
bool dp_map_is_good(const struct dprobes_map *def)
{
	const s64 *given = def->arguments;
	bool is_signed = def->flags & DPROBES_SIGNED;
	u32 arguments = 0, i;
	bool good = true;

	if (def->kind > DP_KIND_TSERIES || def->keys > DP_MAX_KEY_ITEMS ||
	    !def->size || def->size > DP_MAX_MAP_SIZE ||
	    def->flags & ~DPROBES_SIGNED)
		return false;
	switch (def->kind) {
	case DP_KIND_COUNT:
		good = !is_signed;
		break;
	case DP_KIND_HIST:
		arguments = 1;
		good = given[0] >= 0 && given[0] <= DP_MAX_HIST_BITS;
		break;
	case DP_KIND_LHIST:
		arguments = 3;
		good = given[0] < given[1] && given[2] > 0 &&
		       (is_signed || given[0] >= 0) &&
		       dp_steps((u64)given[1] - given[0], given[2]) <=
			       DP_MAX_BUCKETS;
		break;
	case DP_KIND_TSERIES:
		arguments = 2;
		good = given[0] > 0 && given[0] <= DP_MAX_INTERVAL &&
		       given[1] > 0 && given[1] <= DP_MAX_BUCKETS;
		break;
	default:
		break;
	}
	for (i = arguments; i < ARRAY_SIZE(def->arguments); i++)
		good = good && !given[i];
	return good;
}

/* Bytes that a key of a form has at most. */
static size_t dp_key_bytes(const struct dprobes_map *def, u32 form)
{
	size_t bytes = 0, strings = 0;

	/* One that no instruction names has no keys. */
	if (!form)
		return 16 * (size_t)def->keys;
	for (; form > DP_NO_ITEMS; form >>= 2) {
		bytes += 8;
		switch (form & 3) {
		case DP_ITEM_IS_WORD:
			bytes += 8;
			break;
		case DP_ITEM_IS_NAME:
			bytes += 16;
			break;
		default:
			bytes += 8 + DP_LEAST_STACK;
			strings = DP_STRING_BYTES;
			break;
		}
	}
	return (bytes + strings + 7) & ~(size_t)7;
}

/* How many words a cell has. */
static u32 dp_cell_words(const struct dprobes_map *def)
{
	u32 bits = def->arguments[0];

	switch (def->kind) {
	case DP_KIND_VALUE:
		return 0;
	case DP_KIND_COUNT:
		return 1;
	case DP_KIND_SUM:
	case DP_KIND_MIN:
	case DP_KIND_MAX:
		return 2;
	case DP_KIND_HIST:
		/* Bucket -1, and up to that of the greatest word. */
		return ((63 - bits) << bits) + (2U << bits) - 1 + 2;
	case DP_KIND_LHIST:
		return dp_steps((u64)def->arguments[1] - def->arguments[0],
				def->arguments[2]) + 2;
	case DP_KIND_TSERIES:
		return 3 * def->arguments[1];
	default:
		return 5;
	}
}

static u32 dp_at_most(u32 number, size_t room, size_t each)
{
	if (number * each <= room)
		return number;
	return room / each ? room / each : 1;
}

/**
 * dp_map_lay_out() - how much memory the parts of a map take
 * @map: dp_verify() has seen it
 * @entry_room: bytes that there are for keys
 * @cell_room: bytes that there are for cells, of each CPU
 */
void dp_map_lay_out(struct dp_map *map, size_t entry_room, size_t cell_room)
{
	u32 size = map->def.keys ? map->def.size : 1;

	map->entry_bytes = sizeof(struct dp_entry) +
			   dp_key_bytes(&map->def, map->form);
	map->entries = dp_at_most(size, entry_room, map->entry_bytes);
	for (map->slots = 1; map->slots <= map->entries; map->slots <<= 1)
		;
	map->cell_words = dp_cell_words(&map->def);
	map->cells = 0;
	if (map->cell_words)
		map->cells = dp_at_most(map->entries, cell_room,
					8 * (size_t)(map->cell_words +
						     DP_CELL_HEAD));
}
