/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verifier and the interpreter of probe programs; see machine.h.
 */
#ifndef DP_INTERP_H
#define DP_INTERP_H

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include "user.h"
#endif
#include "isa.h"
#include "../uapi/dprobes.h"

/* Words that a hook is called with. */
#define DP_HOOK_WORDS 6

/* A code offset that is none. */
#define DP_NONE (~(u64)0)

/**
 * struct dp_block - a basic block of one probe
 * @start: code offset of its first instruction
 * @end: code offset behind its last one
 * @cost: what it takes of the instruction budget, as far as known before
 */
struct dp_block {
	u32 start;
	u32 end;
	u32 cost;
};

/* The parts of a probe. */
enum dp_part {
	DP_AT_HIT,	/* runs when it fires */
	DP_AT_ENTRY,	/* of one at a return, runs when the function is entered */
	DP_PARTS,
};

/**
 * struct dp_blocks - the blocks of a part in dp_program.blocks
 * @first: the first one, in the order of their offsets
 * @count: how many; 0: there is no such part
 */
struct dp_blocks {
	u32 first;
	u32 count;
};

/**
 * struct dp_probe - a probe, ready to run
 * @def: as it was loaded
 * @parts: by enum dp_part
 */
struct dp_probe {
	struct dprobes_probe def;
	struct dp_blocks parts[DP_PARTS];
};

/* Bytes of a packed key: 8 prefixes; strings, or names, and zeros behind them. */
#define DP_KEY_BYTES 1152

/* Words in front of each cell: its sequence number. */
#define DP_CELL_HEAD 1

/**
 * struct dp_slot - where the entries of a map's keys with one hash begin
 * @sequence: odd while somebody changes what hangs here
 * @head: number of the first entry, 0: none
 * @count: how many hang here, DP_CHAIN at most
 */
struct dp_slot {
	u32 sequence;
	u32 head;
	u32 count;
};

/* So many entries are looked at for a key at most, whoever chooses the keys. */
#define DP_CHAIN 64

/**
 * struct dp_entry - a key of a map
 * @next: number of the next one in the slot, or in the list of free ones
 * @sequence: odd while the rest changes
 * @there: whether the key is in the map
 * @size: bytes of the key
 * @word: of a `value`: what it has there
 * @key: packed: of each item a word DP_IS_WORD and the word, or how many bytes
 *	and these, with zeros up to a whole number of words
 */
struct dp_entry {
	u32 next;
	u32 sequence;
	u32 there;
	u32 size;
	u64 word;
	u8 key[];
};

/* In a packed key: what follows is a word. */
#define DP_IS_WORD (~(u64)0)

/**
 * struct dp_cells - what one CPU has of a bank
 *
 * It is written by hits on that CPU only, one at a time.
 *
 * @lost: updates for which there was no room
 * @used: how many cells have been taken
 * @of: for each entry, the number of its cell, from 1; 0: it has none here
 * @words: the cells, DP_CELL_HEAD more than dp_map.cell_words each: the first
 *	one is odd while the others are not whole
 */
struct dp_cells {
	u64 lost;
	u32 used;
	u32 *of;
	u64 *words;
};

/**
 * struct dp_bank - what is in a map
 *
 * Keys are the same for all CPUs.  Those of maps that are no `value` stay as
 * long as the bank; those of a `value` hang in slots that are changed by one
 * CPU at a time: who finds a slot taken for too long does without, which is
 * counted as lost.  Nobody holds a slot while another program could run on its
 * CPU, so nobody waits for himself.
 *
 * @seed: of the hash: nobody can choose keys that are in one slot
 * @used: how many entries were ever taken
 * @free: of a `value`: number of the first free one among them; the upper half
 *	counts changes
 * @slots: dp_map.slots of them
 * @entries: dp_map.entries of them
 * @cells: by CPU; NULL for those that cannot come
 */
struct dp_bank {
	u64 seed;
	u32 used;
	u64 free;
	struct dp_slot *slots;
	u8 *entries;
	struct dp_cells **cells;
};

/**
 * struct dp_map - a map of a program
 * @def: as it was loaded
 * @form: the kinds of its key's items: dp_verify() finds it
 * @entry_bytes: of an entry
 * @entries: how many there are: @def.size, or what there is memory for
 * @slots: how many: a power of two
 * @cell_words: of a cell, 0: it has no cells
 * @cells: how many there are for each CPU
 * @bank: what is in it; another one takes its place where it is emptied
 */
struct dp_map {
	struct dprobes_map def;
	u32 form;
	u32 entry_bytes;
	u32 entries;
	u32 slots;
	u32 cell_words;
	u32 cells;
	struct dp_bank *bank;
};

/**
 * struct dp_program - a program
 *
 * Nothing in it changes while it can run but the words of the variables,
 * which are read and written one at a time, @gone, and what is in maps.
 *
 * @def: as it was loaded; its addresses are not used
 * @alter: whether it may alter registers and memory
 * @code: its instructions
 * @probes: @def.probe_count of them
 * @facilities: the numbers behind `exit n`
 * @gone: for each of them, whether it is not there any more; NULL: all are
 * @names: of values
 * @symbols: values of symbols
 * @maps: @def.map_count of them
 * @blocks: made by dp_find_blocks()
 * @locals: @def.vars words
 * @globals: DP_MAX_VARIABLES words, or @globals_count
 * @globals_count: how many there are, @def.gvars at least; it only grows
 */
struct dp_program {
	struct dprobes_load def;
	bool alter;
	const u8 *code;
	struct dp_probe *probes;
	const u16 *facilities;
	const u8 *gone;
	const struct dprobes_name *names;
	const u64 *symbols;
	struct dp_map *maps;
	struct dp_block *blocks;
	u64 *locals;
	u64 *globals;
	const u32 *globals_count;
};

/**
 * struct dp_scratch - memory of the verifier
 * @starts: a bit for each code offset at which an instruction begins
 * @reached: of them, those that one probe can come to
 * @leaders: of them, those at which a block begins
 * @todo: offsets to look at
 * @forms: for each offset, the key that is open there
 */
struct dp_scratch {
	u8 starts[DP_MAX_CODE / 8 + 1];
	u8 reached[DP_MAX_CODE / 8 + 1];
	u8 leaders[DP_MAX_CODE / 8 + 1];
	u16 todo[DP_MAX_CODE];
	u32 forms[DP_MAX_CODE];
};

/**
 * struct dp_refusal - why a program is refused
 * @reason: enum dprobes_refusal
 * @where: as it says
 */
struct dp_refusal {
	u32 reason;
	u32 where;
};

/* A run of words that traces of a frame show. */
struct dp_range {
	u64 first;
	u64 count;
};

/**
 * struct dp_frame - one level of the call stack
 * @called: code offset of the subroutine, or of the probe
 * @returns: code offset after the call, DP_NONE
 * @handler: code offset of the exception handler, DP_NONE
 * @sbp: the caller's SBP
 * @pv: stack words that traces show
 * @lv: local variables that traces show
 * @gv: global variables that traces show
 */
struct dp_frame {
	u64 called;
	u64 returns;
	u64 handler;
	s64 sbp;
	struct dp_range pv;
	struct dp_range lv;
	struct dp_range gv;
};

/**
 * struct dp_heap_block - a block of the heap
 * @handle: its handle
 * @offset: where it is in the heap's memory
 * @size: bytes
 * @live: not freed
 */
struct dp_heap_block {
	u32 handle;
	u32 offset;
	u32 size;
	u32 live;
};

/**
 * struct dp_buffers - memory of one hit whose size depends on the program
 * @log: the items
 * @starts: where each of them begins
 * @raw: which are words without prefix
 * @trace: the exception trace
 * @trace_starts: where each of its items begins
 * @heap: twice the bytes of the heap
 * @heap_blocks: what is allocated, handles ascending
 */
struct dp_buffers {
	u8 *log;
	u16 *starts;
	struct dprobes_raw *raw;
	u8 *trace;
	u16 *trace_starts;
	u8 *heap;
	struct dp_heap_block *heap_blocks;
};

/* Words of the stack that are cleared together. */
#define DP_CHUNK 64

/* Words pushed since the stack in memory was brought up to date. */
#define DP_PENDING DP_STACK_WORDS

struct dp_env;

/**
 * struct dp_outcome - what came of a hit
 * @exit: 0, a facility, or one of DP_EXIT_*
 * @major: number of the program
 * @minor: number of the probe
 * @log_size: bytes of log
 * @trace_size: bytes of exception trace
 * @raw_count: entries in dp_buffers.raw
 * @exception: code, parm1, parm2 of the one that ended the program
 * @suspend: hold the thread
 * @resume: let go all that are held
 */
struct dp_outcome {
	s32 exit;
	u16 major;
	u16 minor;
	u32 log_size;
	u32 trace_size;
	u32 raw_count;
	u64 exception[3];
	bool suspend;
	bool resume;
};

/**
 * struct dp_machine - the state of one hit
 *
 * One for each CPU: it is used by one hit at a time, which nothing else on
 * that CPU can come between.
 *
 * @stack: in memory; word n is stack[n % DP_STACK_WORDS]
 * @dirty: a bit for each chunk of it that is not all zeros
 * @depth: words on the stack in memory, as a number that may leave it
 * @sbp: base of the frame
 * @words: words pushed since, which are not in memory yet
 * @count: how many
 * @under: how far below @depth they begin: 0 or less
 * @frames: the call stack
 * @level: the innermost one
 * @last: code, parm1, parm2 of the last exception
 * @left: of the instruction budget
 * @jumps: left to the hit
 * @pc: code offset of the instruction
 * @next: code offset of the one behind it
 * @log_count: items in the log
 * @trace_count: items in the exception trace
 * @heap_left: bytes left in the heap
 * @heap_top: where the next block begins
 * @heap_count: entries of dp_buffers.heap_blocks
 * @heap_handle: the last handle
 * @key: the key that is open
 * @key_size: bytes of it
 * @key_strings: bytes of its strings and stacks
 * @walked: the frames of a stack
 * @program: what runs
 * @probe: of it
 * @part: of that
 * @kept: DP_KEPT_WORDS that the part at the entry leaves for that at the return:
 *	set by who runs them; NULL: none
 * @cpu: which one this is: set by who runs it
 * @buffers: of the program, for this CPU
 * @env: registers and memory
 * @out: what comes of it
 */
struct dp_machine {
	u64 stack[DP_STACK_WORDS];
	u64 words[DP_PENDING];
	u32 dirty;
	s64 depth;
	s64 sbp;
	u32 count;
	s64 under;
	struct dp_frame frames[DP_CALL_FRAMES + 1];
	u32 level;
	u64 last[3];
	s64 left;
	u32 jumps;
	u32 pc;
	u32 next;
	u32 log_count;
	u32 trace_count;
	u32 heap_left;
	u32 heap_top;
	u32 heap_count;
	u32 heap_handle;
	u8 key[DP_KEY_BYTES];
	u32 key_size;
	u32 key_strings;
	u64 walked[DP_MOST_FRAMES + 1];
	const struct dp_program *program;
	const struct dp_probe *probe;
	enum dp_part part;
	u64 *kept;
	u32 cpu;
	struct dp_buffers *buffers;
	struct dp_env *env;
	struct dp_outcome out;
};

/* What dp_env_fact() is asked for. */
enum dp_fact {
	DP_FACT_TASK,
	DP_FACT_PID,
	DP_FACT_TID,
	DP_FACT_UID,
	DP_FACT_GID,
	DP_FACT_CPU,
	DP_FACT_TIME,
};

struct dp_refusal dp_verify_header(const struct dprobes_load *def);
struct dp_refusal dp_verify(const struct dp_program *program,
			    struct dp_scratch *scratch);
u32 dp_find_blocks(const struct dp_program *program, u32 probe,
		   enum dp_part part, struct dp_scratch *scratch,
		   struct dp_block *blocks, u32 room);
size_t dp_buffers_size(const struct dp_program *program);
void dp_buffers_init(struct dp_buffers *buffers,
		     const struct dp_program *program, void *memory);
void dp_run(struct dp_machine *m, const struct dp_program *program, u32 probe,
	    enum dp_part part, struct dp_buffers *buffers, struct dp_env *env,
	    u32 budget);

/* keys.c */
struct dp_refusal dp_check_keys(const struct dp_program *program,
				struct dp_scratch *scratch);
bool dp_map_is_good(const struct dprobes_map *def);
void dp_map_lay_out(struct dp_map *map, size_t entry_room, size_t cell_room);

/* bank.c */
size_t dp_bank_size(const struct dp_map *map, u32 cpus);
struct dp_bank *dp_bank_init(const struct dp_map *map, u32 cpus, u64 seed,
			     void *memory);
size_t dp_cells_size(const struct dp_map *map);
struct dp_cells *dp_cells_init(const struct dp_map *map, void *memory);
u32 dp_bank_used(const struct dp_bank *bank);
u32 dp_bank_keys(const struct dp_map *map, const struct dp_bank *bank);
bool dp_bank_entry(const struct dp_map *map, struct dp_bank *bank, u32 number,
		   struct dp_entry *to);
bool dp_bank_cell(const struct dp_map *map, struct dp_bank *bank, u32 number,
		  u32 cpus, u64 *words, u64 *scratch);
u64 dp_bank_lost(const struct dp_bank *bank, u32 cpus);
bool dp_bank_enter(const struct dp_map *map, struct dp_bank *bank,
		   const u8 *bytes, u32 size);

/*
 * What surrounds a hit; in the kernel env.c, in user space the tests'.
 */

/* Copy what can be read from an address on; returns how many bytes. */
u32 dp_env_read(struct dp_env *env, u64 address, void *to, u32 size);
/* Write all of it, or nothing and return false. */
bool dp_env_write(struct dp_env *env, u64 address, const void *from, u32 size);
/* Whether the byte at the address may be written. */
bool dp_env_writable(struct dp_env *env, u64 address);
/* A register (enum dp_reg), of the task in user mode or at the probe. */
u64 dp_env_reg(struct dp_env *env, bool task, u32 index);
void dp_env_set_reg(struct dp_env *env, bool task, u32 index, u64 value);
/*
 * Call the hook of a number with DP_HOOK_WORDS words, and get what its exits
 * leave as value; false: there is no such hook.
 */
bool dp_env_callk(struct dp_env *env, u64 number, const u64 *words, u64 *value);
/*
 * Words of a register of the processor itself (enum dp_cpu), 4 at most, the low
 * one first; @taken: which one of several; false: there is none of that number.
 */
bool dp_env_cpu_reg(struct dp_env *env, u32 index, u64 taken, u64 *words);
/* Ports: @width is 1, 2 or 4 bytes. */
u64 dp_env_port(struct dp_env *env, u16 port, u32 width);
void dp_env_set_port(struct dp_env *env, u16 port, u32 width, u64 value);
/* The base of a segment; false: the selector has none. */
bool dp_env_segment(struct dp_env *env, u16 selector, u64 *base);
u64 dp_env_fact(struct dp_env *env, enum dp_fact fact);
/* The stack of the task in the kernel, innermost first; returns how many frames. */
u32 dp_env_stack(struct dp_env *env, u64 *frames, u32 most);
/* The task's name, 16 bytes, zeros behind it. */
void dp_env_comm(struct dp_env *env, u8 *comm);

#endif /* DP_INTERP_H */
