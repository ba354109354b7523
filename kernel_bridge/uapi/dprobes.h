/* SPDX-License-Identifier: GPL-2.0-or-later WITH Linux-syscall-note */
/*
 * The interface of dprobes.ko to user space.
 *
 * /dev/dprobes takes a program (DPROBES_LOAD) and gives a descriptor for it.
 * Everything that belongs to the program (its probes, its variables, its
 * records) goes away with that descriptor.  All numbers are little-endian, of
 * fixed size and naturally aligned; what is called pad is 0, or it is EINVAL.
 *
 * The descriptor is read: whole records, each
 *
 *	offset bytes
 *	     0   104  struct dprobes_record
 *	   104   4*n  n = raw_count: struct dprobes_raw
 *	     .     m  m = log_size: the items of the log, behind them the exception
 *		      trace, and where the program ended by `exit dump` values of
 *		      the registers and a string for each function on the stack
 *	     .     .  zeros, up to a multiple of 8
 *
 * A read that has no room for the next record fails with EMSGSIZE, and the
 * record stays.  poll() says when there is one.
 */
#ifndef _UAPI_DPROBES_H
#define _UAPI_DPROBES_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Version of what is in this file; another one is not understood. */
#define DPROBES_ABI 4

/**
 * struct dprobes_version - what the module understands
 * @abi: DPROBES_ABI
 * @isa: checksum of the instruction table (DP_ISA_CRC in isa.h)
 */
struct dprobes_version {
	__u32 abi;
	__u32 isa;
};

/* What a program's module is: the language's numbers. */
#define DPROBES_USER	1
#define DPROBES_KERNEL	2
#define DPROBES_KMOD	4

/* dprobes_load.flags */
#define DPROBES_AUTOSTACKTRACE	0x1

/**
 * struct dprobes_probe - one probe of a program
 * @entry: code offset of its first instruction
 * @end: code offset behind its last one
 * @heap: bytes of heap of a hit
 * @pass_count: hits passed over before the program runs
 * @max_hits: hits run before it is disabled, 0: no limit
 * @minor: number of its records
 * @ex_mask: which exceptions reach handlers
 * @split: of one at a return: code offset of what runs there, if what is before
 *	it runs at the function's entry; else 0
 */
struct dprobes_probe {
	__u32 entry;
	__u32 end;
	__u32 heap;
	__u32 pass_count;
	__u32 max_hits;
	__u16 minor;
	__u16 ex_mask;
	__u32 split;
};

/**
 * struct dprobes_name - a name of the program's list
 * @size: bytes of it; 0 for the name of a symbol, which only its value is for
 * @text: the name of a value
 */
struct dprobes_name {
	__u8 size;
	__u8 text[63];
};

/* dprobes_map.flags */
#define DPROBES_SIGNED		0x1

/**
 * struct dprobes_map - a map of a program
 * @kind: enum dp_kind of isa.h: the language's numbers
 * @keys: items of its key
 * @size: keys that it has at most
 * @flags: DPROBES_SIGNED: words that are added are two's complement
 * @arguments: of the kind; those that it does not have are 0
 */
struct dprobes_map {
	__u32 kind;
	__u32 keys;
	__u32 size;
	__u32 flags;
	__s64 arguments[3];
};

/**
 * struct dprobes_load - a program
 * @modtype: DPROBES_KERNEL or DPROBES_KMOD
 * @flags: DPROBES_AUTOSTACKTRACE
 * @major: number of its records
 * @vars: local variables
 * @gvars: global variables that it needs
 * @jmpmax: jumps taken in one hit
 * @logmax: bytes of log of a hit
 * @ex_logmax: bytes of exception trace of a hit
 * @code_size: bytes at @code
 * @probe_count: entries at @probes
 * @facility_count: entries at @facilities
 * @name_count: entries at @names and @symbols
 * @ring: bytes for records on each CPU: a power of two, a page at least
 * @map_count: entries at @maps
 * @code: address of the instructions
 * @probes: address of struct dprobes_probe
 * @facilities: address of __u16: the number behind each `exit n`
 * @names: address of struct dprobes_name
 * @symbols: address of __u64: the value of each name that is a symbol
 * @maps: address of struct dprobes_map
 * @refused: out, with EBADMSG: enum dprobes_refusal
 * @where: out: the code offset, probe, name, map or number that is wrong
 */
struct dprobes_load {
	__u32 modtype;
	__u32 flags;
	__u32 major;
	__u32 vars;
	__u32 gvars;
	__u32 jmpmax;
	__u32 logmax;
	__u32 ex_logmax;
	__u32 code_size;
	__u32 probe_count;
	__u32 facility_count;
	__u32 name_count;
	__u32 ring;
	__u32 map_count;
	__u64 code;
	__u64 probes;
	__u64 facilities;
	__u64 names;
	__u64 symbols;
	__u64 maps;
	__u32 refused;
	__u32 where;
};

/* Why a program is refused; dprobes_load.where is what the comment says. */
enum dprobes_refusal {
	DPROBES_OK,
	DPROBES_BAD_MODTYPE,		/* the modtype */
	DPROBES_BAD_HEADER,		/* byte offset of the field in dprobes_load */
	DPROBES_BAD_PROBE,		/* the probe: range, heap or a number */
	DPROBES_BAD_FACILITY,		/* the facility: 0 */
	DPROBES_BAD_NAME,		/* the name */
	DPROBES_BAD_MAP,		/* the map */
	DPROBES_UNKNOWN_OPCODE,		/* code offset */
	DPROBES_CUT_SHORT,		/* code offset */
	DPROBES_BAD_OPERAND,		/* code offset */
	DPROBES_BAD_JUMP,		/* code offset */
	DPROBES_RUNS_PAST_END,		/* code offset */
	DPROBES_BAD_KEY,		/* code offset: which key is open is not as it must be */
	DPROBES_TOO_MANY_BLOCKS,	/* the probe: it reaches too much code */
	DPROBES_NO_FPU,			/* code offset: FPU registers */
	DPROBES_NO_HOLD,		/* code offset: suspend, resume */
	DPROBES_NO_TLS,			/* code offset: thread-local variables */
	DPROBES_NO_WRITE_CHECK,		/* code offset: vfy rw */
	DPROBES_NOT_KERNEL,		/* code offset: for kernel programs only */
	DPROBES_NO_USTACK,		/* code offset: stacks in user mode */
	DPROBES_NOT_YET,		/* code offset: once */
	DPROBES_NO_ALTER,		/* code offset: altering is switched off */
};

/* How many characters a symbol has, the zero at its end included. */
#define DPROBES_SYMBOL 128

/* What a probe is placed on. */
enum dprobes_kind {
	DPROBES_CODE,			/* an instruction: a kprobe */
	DPROBES_WATCH_X,		/* data breakpoints: executed */
	DPROBES_WATCH_W,		/* written */
	DPROBES_WATCH_RW,		/* read or written */
	DPROBES_TRACEPOINT,		/* a tracepoint of the kernel itself */
	DPROBES_HOOK,			/* a hook: the program is an exit on it */
	DPROBES_FILE,			/* in a file (uprobe); process memory */
	DPROBES_LEAVE,			/* where a function is left: a kretprobe */
};

/**
 * struct dprobes_attach - place a probe
 * @probe: which one, from 0
 * @kind: enum dprobes_kind
 * @offset: of code: bytes behind the symbol; of a file: in it; else 0
 * @address: of data: where it is, else 0
 * @length: of data: 1, 2, 4 or 8 bytes, which @address is a multiple of
 *	(executed: 1); of a file: an open descriptor of it; else 0
 * @pad: 0
 * @symbol: of code or a return: function of the kernel or of a module, or
 *	"module:function"; of a tracepoint or a hook: its name; else empty
 */
struct dprobes_attach {
	__u32 probe;
	__u32 kind;
	__u64 offset;
	__u64 address;
	__u32 length;
	__u32 pad;
	__u8 symbol[DPROBES_SYMBOL];
};

/* The state of a probe: as people know it from `query`. */
enum dprobes_state {
	DPROBES_COMPILED,		/* not placed */
	DPROBES_ACTIVE,
	DPROBES_DISABLED,		/* max_hits were run */
	DPROBES_REMOVED,		/* it ended with `rem` */
	DPROBES_PENDING,		/* its module is not loaded */
	DPROBES_FAILED,			/* it could not be placed when that came */
};

/**
 * struct dprobes_query - a probe's state and counts
 * @probe: in: which one
 * @state: enum dprobes_state
 * @error: of a failed one: why, a number as DPROBES_ATTACH would fail with;
 *	ENODEV: the module with the data, or the hook, was removed
 * @pad: in and out: 0
 * @address: where it is, 0: not placed
 * @hits: hits, those passed over included
 * @runs: how often its program ran
 * @recursed: hits while a program ran on the same CPU; none ran
 * @missed: hits that the kernel itself passed over, and calls whose entry part
 *	failed
 */
struct dprobes_query {
	__u32 probe;
	__u32 state;
	__u32 error;
	__u32 pad;
	__u64 address;
	__u64 hits;
	__u64 runs;
	__u64 recursed;
	__u64 missed;
};

/**
 * struct dprobes_vars - read or set variables
 * @global: 1: the global ones, 0: the program's own
 * @first: number of the first
 * @count: how many; all of them exist
 * @pad: 0
 * @words: address of __u64
 */
struct dprobes_vars {
	__u32 global;
	__u32 first;
	__u32 count;
	__u32 pad;
	__u64 words;
};

/**
 * struct dprobes_stats - the records of a program
 * @written: records that were written
 * @lost: records that had no room
 */
struct dprobes_stats {
	__u64 written;
	__u64 lost;
};

/**
 * struct dprobes_contents - read what is in a map, all CPUs together
 *
 * At @data come, for each key, struct dprobes_entry, the key, and its cell.
 * Programs run meanwhile: of what they change, each key is as it was at one
 * moment, each CPU's part of its cell as well.  What was reset is told of whole:
 * an update is either in it, or comes later.
 *
 * @map: which one, from 0
 * @reset: enum dprobes_reset
 * @data: address of @room bytes
 * @room: bytes there; too few for a full map: EMSGSIZE, and nothing was done; 0:
 *	nothing is read or reset, and @size says how many are enough
 * @size: out: bytes that were written
 * @lost: out: updates for which there was no room
 * @keys: out: how many keys there are
 * @pad: in and out: 0
 */
struct dprobes_contents {
	__u32 map;
	__u32 reset;
	__u64 data;
	__u64 room;
	__u64 size;
	__u64 lost;
	__u32 keys;
	__u32 pad;
};

/* What becomes of a map when it was read. */
enum dprobes_reset {
	DPROBES_KEEP,
	DPROBES_CLEAR,			/* no keys any more */
	DPROBES_ZERO,			/* at its keys nothing was added */
};

/**
 * struct dprobes_entry - a key of a map
 * @key_size: bytes of the key that follows, a multiple of 8: of each item a word
 *	of all ones and a word, or the number of bytes and these, with zeros up
 *	to a multiple of 8
 * @words: __u64 of the cell behind it; 0: nothing was added
 */
struct dprobes_entry {
	__u32 key_size;
	__u32 words;
};

/**
 * struct dprobes_record - one hit; see above for what follows it
 * @size: bytes of all of it
 * @probe: which one
 * @time: monotonic, nanoseconds
 * @address: the probed place
 * @hit: number of the hit, from 1
 * @exit: as the language has it: 0, a facility, or one of DP_EXIT_*
 * @major: number of the program
 * @minor: number of the probe
 * @pid: thread group of the current task
 * @tid: the task
 * @uid: its real user
 * @cpu: where it was
 * @log_size: bytes of log
 * @raw_count: how many struct dprobes_raw
 * @exception: code, parm1, parm2 of the one that ended the program, or zeros
 * @comm: the task's name
 */
struct dprobes_record {
	__u32 size;
	__u32 probe;
	__u64 time;
	__u64 address;
	__u64 hit;
	__s32 exit;
	__u16 major;
	__u16 minor;
	__u32 pid;
	__u32 tid;
	__u32 uid;
	__u32 cpu;
	__u32 log_size;
	__u32 raw_count;
	__u64 exception[3];
	__u8 comm[16];
};

/**
 * struct dprobes_raw - words in the log that have no prefix
 * @offset: where
 * @words: how many
 */
struct dprobes_raw {
	__u16 offset;
	__u16 words;
};

#define DPROBES_IOC	0xdb
/* on /dev/dprobes */
#define DPROBES_VERSION	_IOR(DPROBES_IOC, 0, struct dprobes_version)
#define DPROBES_LOAD	_IOWR(DPROBES_IOC, 1, struct dprobes_load)
/* on the descriptor of a program */
#define DPROBES_ATTACH	_IOW(DPROBES_IOC, 2, struct dprobes_attach)
#define DPROBES_QUERY	_IOWR(DPROBES_IOC, 3, struct dprobes_query)
#define DPROBES_GETVARS	_IOW(DPROBES_IOC, 4, struct dprobes_vars)
#define DPROBES_SETVARS	_IOW(DPROBES_IOC, 5, struct dprobes_vars)
#define DPROBES_STATS	_IOR(DPROBES_IOC, 6, struct dprobes_stats)
#define DPROBES_CONTENTS _IOWR(DPROBES_IOC, 7, struct dprobes_contents)
/*
 * Take all probes of the program out for good.  What has been counted, recorded
 * and kept in maps is whole then, and is read as before.
 */
#define DPROBES_DETACH	_IO(DPROBES_IOC, 8)

#endif /* _UAPI_DPROBES_H */
