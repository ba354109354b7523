/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The instruction table of the probe language, for C.
 *
 * Written by `python -m kernel_bridge.isa_header` from dprobed/program/isa.py:
 * do not edit.  One file has the tables themselves: where DP_ISA_TABLES is defined.
 */
#ifndef DP_ISA_H
#define DP_ISA_H

#define DP_ISA_CRC 0x51e4ec2au

#define DP_STACK_WORDS 1024
#define DP_CALL_FRAMES 32
#define DP_MAX_VARIABLES 256
#define DP_MAX_CODE 65536
#define DP_MAX_PROBES 10000
#define DP_MAX_FACILITIES 256
#define DP_MAX_NAMES 256
#define DP_MAX_NAME 63
#define DP_MAX_COUNT 65535
#define DP_BUDGET 1000000
#define DP_FATAL_EX_MASK 4095
#define DP_OPERAND_IS_LOCAL 1
#define DP_OPERAND_IS_GLOBAL 2
#define DP_OPERAND_IS_BIT 3
#define DP_OPERAND_IS_FACILITY 4
#define DP_OPERAND_IS_HOOK 6
#define DP_OPERAND_IS_REGISTER 7
#define DP_OPERAND_IS_PORT 8
#define DP_OPERAND_IS_KEY 5
#define DP_KEPT_WORDS 8
#define DP_FACILITY_DUMP 3
#define DP_REGS 27
#define DP_VALUE_KINDS 12
#define DP_VALUE_HEX 10
#define DP_MAX_MAPS 16
#define DP_MAX_KEY_ITEMS 8
#define DP_MAX_MAP_SIZE 65536
#define DP_MAX_BUCKETS 1000
#define DP_STRING_BYTES 912
#define DP_MAX_HIST_BITS 5
#define DP_MAX_INTERVAL 86400000
#define DP_MOST_FRAMES 255
#define DP_USUAL_FRAMES 127
#define DP_FRAME_COST 8

enum dp_op {
	DP_OP_NOP = 0x0,
	DP_OP_JMP_LABEL = 0x1,
	DP_OP_JLT_LABEL = 0x2,
	DP_OP_JLE_LABEL = 0x3,
	DP_OP_JGT_LABEL = 0x4,
	DP_OP_JGE_LABEL = 0x5,
	DP_OP_JZ_LABEL = 0x6,
	DP_OP_JNZ_LABEL = 0x7,
	DP_OP_LOOP_LABEL = 0x8,
	DP_OP_CALL_LABEL = 0x9,
	DP_OP_RET = 0xa,
	DP_OP_ABORT = 0xb,
	DP_OP_REM = 0xc,
	DP_OP_EXIT = 0xd,
	DP_OP_EXIT_FACILITY = 0xe,
	DP_OP_SUSPEND = 0xf,
	DP_OP_RESUME = 0x10,
	DP_OP_SETMIN_INDEX = 0x11,
	DP_OP_SETMIN = 0x12,
	DP_OP_SETMAJ_INDEX = 0x13,
	DP_OP_SETMAJ = 0x14,
	DP_OP_LOG_STR = 0x15,
	DP_OP_LOG_MRF = 0x17,
	DP_OP_LOG_COUNT = 0x1b,
	DP_OP_PUSH_GV_INDEX = 0x1f,
	DP_OP_PUSH_GV = 0x20,
	DP_OP_POP_GV_INDEX = 0x21,
	DP_OP_POP_GV = 0x22,
	DP_OP_MOVE_GV_INDEX = 0x23,
	DP_OP_MOVE_GV = 0x24,
	DP_OP_INC_GV_INDEX = 0x25,
	DP_OP_INC_GV = 0x26,
	DP_OP_DEC_GV_INDEX = 0x27,
	DP_OP_DEC_GV = 0x28,
	DP_OP_PUSH_LV_INDEX = 0x29,
	DP_OP_PUSH_LV = 0x2a,
	DP_OP_POP_LV_INDEX = 0x2b,
	DP_OP_POP_LV = 0x2c,
	DP_OP_MOVE_LV_INDEX = 0x2d,
	DP_OP_MOVE_LV = 0x2e,
	DP_OP_INC_LV_INDEX = 0x2f,
	DP_OP_INC_LV = 0x30,
	DP_OP_DEC_LV_INDEX = 0x31,
	DP_OP_DEC_LV = 0x32,
	DP_OP_ADD = 0x33,
	DP_OP_SUB = 0x34,
	DP_OP_MUL = 0x35,
	DP_OP_NEG = 0x36,
	DP_OP_AND = 0x37,
	DP_OP_OR = 0x38,
	DP_OP_XOR = 0x39,
	DP_OP_ROL_BITS = 0x3a,
	DP_OP_ROL = 0x3b,
	DP_OP_ROR_BITS = 0x3c,
	DP_OP_ROR = 0x3d,
	DP_OP_SHL_BITS = 0x3e,
	DP_OP_SHL = 0x3f,
	DP_OP_SHR_BITS = 0x40,
	DP_OP_SHR = 0x41,
	DP_OP_XCHG = 0x42,
	DP_OP_DUP_COUNT = 0x43,
	DP_OP_DUP = 0x44,
	DP_OP_ROS_COUNT = 0x45,
	DP_OP_PUSH_R_REGISTER = 0x46,
	DP_OP_POP_R_REGISTER = 0x47,
	DP_OP_PUSH_U_REGISTER = 0x48,
	DP_OP_POP_U_REGISTER = 0x49,
	DP_OP_PUSH_WORD = 0x4c,
	DP_OP_PUSH_MEM_U8 = 0x4d,
	DP_OP_PUSH_MEM_U16 = 0x4e,
	DP_OP_PUSH_MEM_U32 = 0x4f,
	DP_OP_PUSH_MEM_U64 = 0x50,
	DP_OP_POP_MEM_U8 = 0x51,
	DP_OP_POP_MEM_U16 = 0x52,
	DP_OP_POP_MEM_U32 = 0x53,
	DP_OP_POP_MEM_U64 = 0x54,
	DP_OP_PUSH_TASK = 0x5d,
	DP_OP_PUSH_PID = 0x5e,
	DP_OP_PUSH_PROCID = 0x5f,
	DP_OP_VFY_R = 0x60,
	DP_OP_VFY_RW = 0x61,
	DP_OP_DIV = 0x62,
	DP_OP_IDIV = 0x63,
	DP_OP_PBL = 0x64,
	DP_OP_PBR = 0x65,
	DP_OP_PBL_BIT = 0x66,
	DP_OP_PBR_BIT = 0x67,
	DP_OP_PZL = 0x68,
	DP_OP_PZR = 0x69,
	DP_OP_PZL_BIT = 0x6a,
	DP_OP_PZR_BIT = 0x6b,
	DP_OP_SX_LABEL = 0x6c,
	DP_OP_UX = 0x6d,
	DP_OP_RX = 0x6e,
	DP_OP_PUSH_X = 0x6f,
	DP_OP_PUSH_LP = 0x70,
	DP_OP_PUSH_PLP = 0x71,
	DP_OP_POP_LP = 0x72,
	DP_OP_LOG_ST = 0x73,
	DP_OP_PURGE_ST = 0x74,
	DP_OP_TRACE_LV = 0x75,
	DP_OP_TRACE_GV = 0x76,
	DP_OP_TRACE_PV = 0x77,
	DP_OP_PUSH_SBP = 0x78,
	DP_OP_POP_SBP = 0x79,
	DP_OP_PUSH_TSP = 0x7a,
	DP_OP_POP_TSP = 0x7b,
	DP_OP_PUSH_SBP_SLOT = 0x7c,
	DP_OP_POP_SBP_SLOT = 0x7d,
	DP_OP_PUSH_TSP_SLOT = 0x7e,
	DP_OP_POP_TSP_SLOT = 0x7f,
	DP_OP_COPY_SBP_SLOT = 0x80,
	DP_OP_COPY_TSP_SLOT = 0x81,
	DP_OP_PUSH_STP = 0x82,
	DP_OP_POP_STP = 0x83,
	DP_OP_SAVE_SBP = 0x84,
	DP_OP_RESTORE_SBP = 0x85,
	DP_OP_SAVE_TSP = 0x86,
	DP_OP_RESTORE_TSP = 0x87,
	DP_OP_COPY_SBP = 0x88,
	DP_OP_COPY_TSP = 0x89,
	DP_OP_LOG = 0x8a,
	DP_OP_LOG_LV = 0x8b,
	DP_OP_LOG_GV = 0x8c,
	DP_OP_CALLK = 0x8d,
	DP_OP_MALLOC = 0x8e,
	DP_OP_FREE = 0x8f,
	DP_OP_PUSH_WID = 0x90,
	DP_OP_PUSHH_U8_COUNT = 0x91,
	DP_OP_PUSHH_U16_COUNT = 0x92,
	DP_OP_PUSHH_U32_COUNT = 0x93,
	DP_OP_PUSHH_U64_COUNT = 0x94,
	DP_OP_POPH_U8_COUNT = 0x95,
	DP_OP_POPH_U16_COUNT = 0x96,
	DP_OP_POPH_U32_COUNT = 0x97,
	DP_OP_POPH_U64_COUNT = 0x98,
	DP_OP_PUSH_TID = 0x99,
	DP_OP_PUSH_UID = 0x9a,
	DP_OP_PUSH_GID = 0x9b,
	DP_OP_PUSH_TIME = 0x9c,
	DP_OP_PUSH_COMM = 0x9d,
	DP_OP_PUSH_ADDR_SYMBOL = 0x9e,
	DP_OP_PUSH_TLS_SYMBOL = 0x9f,
	DP_OP_PUSH_A_ARGUMENT = 0xa0,
	DP_OP_PUSH_F_ARGUMENT = 0xa1,
	DP_OP_PUSH_E_KEPT = 0xa2,
	DP_OP_POP_E_KEPT = 0xa3,
	DP_OP_SEG2LIN = 0xb0,
	DP_OP_PUSH_IO_U8 = 0xb1,
	DP_OP_PUSH_IO_U16 = 0xb2,
	DP_OP_PUSH_IO_U32 = 0xb3,
	DP_OP_POP_IO_U8 = 0xb4,
	DP_OP_POP_IO_U16 = 0xb5,
	DP_OP_POP_IO_U32 = 0xb6,
	DP_OP_LOG_I8 = 0xc0,
	DP_OP_LOG_I8_NAME = 0xc1,
	DP_OP_LOG_I16 = 0xc2,
	DP_OP_LOG_I16_NAME = 0xc3,
	DP_OP_LOG_I32 = 0xc4,
	DP_OP_LOG_I32_NAME = 0xc5,
	DP_OP_LOG_I64 = 0xc6,
	DP_OP_LOG_I64_NAME = 0xc7,
	DP_OP_LOG_U8 = 0xc8,
	DP_OP_LOG_U8_NAME = 0xc9,
	DP_OP_LOG_U16 = 0xca,
	DP_OP_LOG_U16_NAME = 0xcb,
	DP_OP_LOG_U32 = 0xcc,
	DP_OP_LOG_U32_NAME = 0xcd,
	DP_OP_LOG_U64 = 0xce,
	DP_OP_LOG_U64_NAME = 0xcf,
	DP_OP_LOG_F32 = 0xd0,
	DP_OP_LOG_F32_NAME = 0xd1,
	DP_OP_LOG_F64 = 0xd2,
	DP_OP_LOG_F64_NAME = 0xd3,
	DP_OP_LOG_HEX = 0xd4,
	DP_OP_LOG_HEX_NAME = 0xd5,
	DP_OP_LOG_PTR = 0xd6,
	DP_OP_LOG_PTR_NAME = 0xd7,
	DP_OP_KEY_COUNT = 0xd8,
	DP_OP_KEY_STR = 0xd9,
	DP_OP_KEY_COMM = 0xda,
	DP_OP_MADD_MAP = 0xdb,
	DP_OP_MINC_MAP = 0xdc,
	DP_OP_MGET_MAP = 0xdd,
	DP_OP_MHAS_MAP = 0xde,
	DP_OP_MSET_MAP = 0xdf,
	DP_OP_EXIT_FACILITY_ONCE = 0xe0,
	DP_OP_MDEL_MAP = 0xe1,
	DP_OP_KEY_USTACK = 0xe2,
	DP_OP_KEY_USTACK_DEPTH = 0xe3,
	DP_OP_KEY_TEXT_COUNT = 0xe4,
	DP_OP_PUSH_TEXT_COUNT = 0xe5,
	DP_OP_MLOAD_CELL = 0xe6,
	DP_OP_MSTORE_CELL = 0xe7,
	DP_OP_LOG_USTACK = 0xe8,
	DP_OP_LOG_USTACK_DEPTH = 0xe9,
	DP_OP_LOG_KSTACK = 0xea,
	DP_OP_LOG_KSTACK_DEPTH = 0xeb,
	DP_OP_KEY_KSTACK = 0xec,
	DP_OP_KEY_KSTACK_DEPTH = 0xed,
};

enum dp_operand {
	DP_OPERAND_NONE = 0,
	DP_OPERAND_WORD = 1,
	DP_OPERAND_U16 = 2,
	DP_OPERAND_COUNT16 = 3,
	DP_OPERAND_COUNT8 = 4,
	DP_OPERAND_SHIFT = 5,
	DP_OPERAND_BIT = 6,
	DP_OPERAND_DEPTH = 7,
	DP_OPERAND_ARGUMENT = 8,
	DP_OPERAND_FLOAT = 9,
	DP_OPERAND_KEPT = 10,
	DP_OPERAND_SLOT = 11,
	DP_OPERAND_LABEL = 12,
	DP_OPERAND_REGISTER = 13,
	DP_OPERAND_FACILITY = 14,
	DP_OPERAND_NAME = 15,
	DP_OPERAND_SYMBOL = 16,
	DP_OPERAND_MAP = 17,
	DP_OPERAND_CELL = 18,
};

enum dp_flow {
	DP_FLOW_NEXT = 0,
	DP_FLOW_JUMP = 1,
	DP_FLOW_BRANCH = 2,
	DP_FLOW_CALL = 3,
	DP_FLOW_RETURN = 4,
	DP_FLOW_HANDLER = 5,
	DP_FLOW_RAISE = 6,
	DP_FLOW_END = 7,
};

enum dp_ex {
	DP_EX_INVALID_ADDR = 0x1,
	DP_EX_SEG_FAULT = 0x2,
	DP_EX_MAX_JMPS = 0x4,
	DP_EX_CALL_STACK_OVERFLOW = 0x10,
	DP_EX_DIV_BY_ZERO = 0x20,
	DP_EX_INVALID_OPERAND = 0x40,
	DP_EX_INVALID_OPCODE = 0x80,
	DP_EX_HEAP_NOMEM = 0x100,
	DP_EX_HEAP_INVALID_HANDLE = 0x200,
	DP_EX_HEAP_INVALID_OFFSET = 0x400,
	DP_EX_LOG_OVERFLOW = 0x1000,
	DP_EX_RPN_STACK_WRAP = 0x2000,
	DP_EX_USER = 0x8000,
};

enum dp_item {
	DP_ITEM_SEGMENT_FAULT = -2,
	DP_ITEM_MEMORY_FAULT = -1,
	DP_ITEM_MEMORY = 0,
	DP_ITEM_STRING = 1,
	DP_ITEM_STACK_TRACE = 2,
	DP_ITEM_FRAME = 3,
	DP_ITEM_STACK = 4,
	DP_ITEM_LOCALS = 5,
	DP_ITEM_GLOBALS = 6,
	DP_ITEM_WORDS = 7,
	DP_ITEM_VALUE = 8,
	DP_ITEM_USER_STACK = 9,
};

enum dp_exit {
	DP_EXIT_EXIT = 0,
	DP_EXIT_REM = -2,
	DP_EXIT_EXCEPTION = -3,
	DP_EXIT_BUDGET = -4,
	DP_EXIT_NO_DUMP = -5,
	DP_EXIT_NO_DEBUGGER = -7,
	DP_EXIT_ABORT = -1,
	DP_EXIT_DUMP_ONCE = -6,
};

enum dp_stack_end {
	DP_END_WHOLE = 0,
	DP_END_DEPTH = 1,
	DP_END_ROOM = 2,
	DP_END_UNREADABLE = 3,
	DP_END_NO_CFI = 4,
	DP_END_NOT_GROWING = 5,
	DP_END_NO_CODE = 6,
	DP_END_NO_TABLE = 7,
	DP_END_NO_RULE = 8,
	DP_END_NONE = 9,
};

enum dp_kind {
	DP_KIND_VALUE = 0,
	DP_KIND_COUNT = 1,
	DP_KIND_SUM = 2,
	DP_KIND_MIN = 3,
	DP_KIND_MAX = 4,
	DP_KIND_AVG = 5,
	DP_KIND_STATS = 6,
	DP_KIND_HIST = 7,
	DP_KIND_LHIST = 8,
	DP_KIND_TSERIES = 9,
};

enum dp_reg {
	DP_REG_R15 = 0,
	DP_REG_R14 = 1,
	DP_REG_R13 = 2,
	DP_REG_R12 = 3,
	DP_REG_RBP = 4,
	DP_REG_RBX = 5,
	DP_REG_R11 = 6,
	DP_REG_R10 = 7,
	DP_REG_R9 = 8,
	DP_REG_R8 = 9,
	DP_REG_RAX = 10,
	DP_REG_RCX = 11,
	DP_REG_RDX = 12,
	DP_REG_RSI = 13,
	DP_REG_RDI = 14,
	DP_REG_ORIG_RAX = 15,
	DP_REG_RIP = 16,
	DP_REG_CS = 17,
	DP_REG_EFLAGS = 18,
	DP_REG_RSP = 19,
	DP_REG_SS = 20,
	DP_REG_FS_BASE = 21,
	DP_REG_GS_BASE = 22,
	DP_REG_DS = 23,
	DP_REG_ES = 24,
	DP_REG_FS = 25,
	DP_REG_GS = 26,
};

enum dp_cpu {
	DP_CPU_CR0 = 0,
	DP_CPU_CR2 = 1,
	DP_CPU_CR3 = 2,
	DP_CPU_CR4 = 3,
	DP_CPU_DR0 = 4,
	DP_CPU_DR1 = 5,
	DP_CPU_DR2 = 6,
	DP_CPU_DR3 = 7,
	DP_CPU_DR4 = 8,
	DP_CPU_DR5 = 9,
	DP_CPU_DR6 = 10,
	DP_CPU_DR7 = 11,
	DP_CPU_GDTR = 12,
	DP_CPU_IDTR = 13,
	DP_CPU_LDTR = 14,
	DP_CPU_TR = 15,
	DP_CPU_MSR = 16,
	DP_CPU_CPUID = 17,
};

#define DP_INSN_LOCALS 0x1
#define DP_INSN_GLOBALS 0x2
#define DP_INSN_KERNEL 0x4
#define DP_INSN_WRITES 0x8
#define DP_INSN_HOLDS 0x10
#define DP_INSN_USTACK 0x20

#define DP_REG_FPU 0x1
#define DP_REG_KERNEL 0x2
#define DP_REG_POP_USER 0x4
#define DP_REG_POP_KERNEL 0x8
#define DP_REG_FLAGS 0x10

/**
 * struct dp_insn - one instruction of the table
 * @size: bytes of the encoded instruction, 0 where the opcode is none
 * @operand: kind of its operand
 * @flow: where the program goes on
 * @flags: DP_INSN_*
 * @pops: words that it pops
 * @pushes: words that it pushes, -1 where only run time tells
 * @pops_each: words more popped for each unit of its count
 * @pushes_each: words more pushed for each unit of its count
 * @peeks: words below those popped that must be there
 */
struct dp_insn {
	__u8 size;
	__u8 operand;
	__u8 flow;
	__u8 flags;
	__s8 pops;
	__s8 pushes;
	__s8 pops_each;
	__s8 pushes_each;
	__s8 peeks;
};

/**
 * struct dp_register - a register that programs know
 * @mask: which bits of the word it has
 * @index: its enum dp_reg, with DP_REG_KERNEL its enum dp_cpu; not with DP_REG_FPU
 * @words: words that a push pushes
 * @takes: words that a push pops first
 * @flags: DP_REG_*
 */
struct dp_register {
	__u64 mask;
	__u8 index;
	__u8 words;
	__u8 takes;
	__u8 flags;
};

#define DP_REGISTERS 90
extern const struct dp_insn dp_insns[256];
extern const struct dp_register dp_registers[DP_REGISTERS];

#ifdef DP_ISA_TABLES
const struct dp_insn dp_insns[256] = {
	[DP_OP_NOP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_JMP_LABEL] = {
		5, DP_OPERAND_LABEL, DP_FLOW_JUMP,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_JLT_LABEL] = {
		5, DP_OPERAND_LABEL, DP_FLOW_BRANCH,
		0, 0, 0, 0, 0, 1,
	},
	[DP_OP_JLE_LABEL] = {
		5, DP_OPERAND_LABEL, DP_FLOW_BRANCH,
		0, 0, 0, 0, 0, 1,
	},
	[DP_OP_JGT_LABEL] = {
		5, DP_OPERAND_LABEL, DP_FLOW_BRANCH,
		0, 0, 0, 0, 0, 1,
	},
	[DP_OP_JGE_LABEL] = {
		5, DP_OPERAND_LABEL, DP_FLOW_BRANCH,
		0, 0, 0, 0, 0, 1,
	},
	[DP_OP_JZ_LABEL] = {
		5, DP_OPERAND_LABEL, DP_FLOW_BRANCH,
		0, 0, 0, 0, 0, 1,
	},
	[DP_OP_JNZ_LABEL] = {
		5, DP_OPERAND_LABEL, DP_FLOW_BRANCH,
		0, 0, 0, 0, 0, 1,
	},
	[DP_OP_LOOP_LABEL] = {
		5, DP_OPERAND_LABEL, DP_FLOW_BRANCH,
		0, 0, 0, 0, 0, 1,
	},
	[DP_OP_CALL_LABEL] = {
		5, DP_OPERAND_LABEL, DP_FLOW_CALL,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_RET] = {
		1, DP_OPERAND_NONE, DP_FLOW_RETURN,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_ABORT] = {
		1, DP_OPERAND_NONE, DP_FLOW_END,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_REM] = {
		1, DP_OPERAND_NONE, DP_FLOW_END,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_EXIT] = {
		1, DP_OPERAND_NONE, DP_FLOW_END,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_EXIT_FACILITY] = {
		3, DP_OPERAND_FACILITY, DP_FLOW_END,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_SUSPEND] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_HOLDS, 0, 0, 0, 0, 0,
	},
	[DP_OP_RESUME] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_HOLDS, 0, 0, 0, 0, 0,
	},
	[DP_OP_SETMIN_INDEX] = {
		3, DP_OPERAND_U16, DP_FLOW_NEXT,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_SETMIN] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_SETMAJ_INDEX] = {
		3, DP_OPERAND_U16, DP_FLOW_NEXT,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_SETMAJ] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_STR] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 0, 0, 0, 0,
	},
	[DP_OP_LOG_MRF] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 0, 0, 0, 0,
	},
	[DP_OP_LOG_COUNT] = {
		3, DP_OPERAND_COUNT16, DP_FLOW_NEXT,
		0, 0, 0, 1, 0, 0,
	},
	[DP_OP_PUSH_GV_INDEX] = {
		3, DP_OPERAND_U16, DP_FLOW_NEXT,
		DP_INSN_GLOBALS, 0, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_GV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_GLOBALS, 1, 1, 0, 0, 0,
	},
	[DP_OP_POP_GV_INDEX] = {
		3, DP_OPERAND_U16, DP_FLOW_NEXT,
		DP_INSN_GLOBALS, 1, 0, 0, 0, 0,
	},
	[DP_OP_POP_GV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_GLOBALS, 2, 0, 0, 0, 0,
	},
	[DP_OP_MOVE_GV_INDEX] = {
		3, DP_OPERAND_U16, DP_FLOW_NEXT,
		DP_INSN_GLOBALS, 0, 0, 0, 0, 1,
	},
	[DP_OP_MOVE_GV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_GLOBALS, 1, 0, 0, 0, 1,
	},
	[DP_OP_INC_GV_INDEX] = {
		3, DP_OPERAND_U16, DP_FLOW_NEXT,
		DP_INSN_GLOBALS, 0, 0, 0, 0, 0,
	},
	[DP_OP_INC_GV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_GLOBALS, 1, 0, 0, 0, 0,
	},
	[DP_OP_DEC_GV_INDEX] = {
		3, DP_OPERAND_U16, DP_FLOW_NEXT,
		DP_INSN_GLOBALS, 0, 0, 0, 0, 0,
	},
	[DP_OP_DEC_GV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_GLOBALS, 1, 0, 0, 0, 0,
	},
	[DP_OP_PUSH_LV_INDEX] = {
		3, DP_OPERAND_U16, DP_FLOW_NEXT,
		DP_INSN_LOCALS, 0, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_LV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_LOCALS, 1, 1, 0, 0, 0,
	},
	[DP_OP_POP_LV_INDEX] = {
		3, DP_OPERAND_U16, DP_FLOW_NEXT,
		DP_INSN_LOCALS, 1, 0, 0, 0, 0,
	},
	[DP_OP_POP_LV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_LOCALS, 2, 0, 0, 0, 0,
	},
	[DP_OP_MOVE_LV_INDEX] = {
		3, DP_OPERAND_U16, DP_FLOW_NEXT,
		DP_INSN_LOCALS, 0, 0, 0, 0, 1,
	},
	[DP_OP_MOVE_LV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_LOCALS, 1, 0, 0, 0, 1,
	},
	[DP_OP_INC_LV_INDEX] = {
		3, DP_OPERAND_U16, DP_FLOW_NEXT,
		DP_INSN_LOCALS, 0, 0, 0, 0, 0,
	},
	[DP_OP_INC_LV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_LOCALS, 1, 0, 0, 0, 0,
	},
	[DP_OP_DEC_LV_INDEX] = {
		3, DP_OPERAND_U16, DP_FLOW_NEXT,
		DP_INSN_LOCALS, 0, 0, 0, 0, 0,
	},
	[DP_OP_DEC_LV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_LOCALS, 1, 0, 0, 0, 0,
	},
	[DP_OP_ADD] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 1, 0, 0, 0,
	},
	[DP_OP_SUB] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 1, 0, 0, 0,
	},
	[DP_OP_MUL] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 1, 0, 0, 0,
	},
	[DP_OP_NEG] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_AND] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 1, 0, 0, 0,
	},
	[DP_OP_OR] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 1, 0, 0, 0,
	},
	[DP_OP_XOR] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 1, 0, 0, 0,
	},
	[DP_OP_ROL_BITS] = {
		2, DP_OPERAND_SHIFT, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_ROL] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 1, 0, 0, 0,
	},
	[DP_OP_ROR_BITS] = {
		2, DP_OPERAND_SHIFT, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_ROR] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 1, 0, 0, 0,
	},
	[DP_OP_SHL_BITS] = {
		2, DP_OPERAND_SHIFT, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_SHL] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 1, 0, 0, 0,
	},
	[DP_OP_SHR_BITS] = {
		2, DP_OPERAND_SHIFT, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_SHR] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 1, 0, 0, 0,
	},
	[DP_OP_XCHG] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 2, 0, 0, 0,
	},
	[DP_OP_DUP_COUNT] = {
		2, DP_OPERAND_COUNT8, DP_FLOW_NEXT,
		0, 1, 1, 0, 1, 0,
	},
	[DP_OP_DUP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, -1, 0, 0, 0,
	},
	[DP_OP_ROS_COUNT] = {
		2, DP_OPERAND_COUNT8, DP_FLOW_NEXT,
		0, 0, 0, 1, 0, 0,
	},
	[DP_OP_PUSH_R_REGISTER] = {
		2, DP_OPERAND_REGISTER, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_POP_R_REGISTER] = {
		2, DP_OPERAND_REGISTER, DP_FLOW_NEXT,
		DP_INSN_WRITES, 0, 0, 1, 0, 0,
	},
	[DP_OP_PUSH_U_REGISTER] = {
		2, DP_OPERAND_REGISTER, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_POP_U_REGISTER] = {
		2, DP_OPERAND_REGISTER, DP_FLOW_NEXT,
		DP_INSN_WRITES, 0, 0, 1, 0, 0,
	},
	[DP_OP_PUSH_WORD] = {
		9, DP_OPERAND_WORD, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_MEM_U8] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_MEM_U16] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_MEM_U32] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_MEM_U64] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_POP_MEM_U8] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_WRITES, 2, 0, 0, 0, 0,
	},
	[DP_OP_POP_MEM_U16] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_WRITES, 2, 0, 0, 0, 0,
	},
	[DP_OP_POP_MEM_U32] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_WRITES, 2, 0, 0, 0, 0,
	},
	[DP_OP_POP_MEM_U64] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_WRITES, 2, 0, 0, 0, 0,
	},
	[DP_OP_PUSH_TASK] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_PID] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_PROCID] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_VFY_R] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_VFY_RW] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_DIV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 2, 0, 0, 0,
	},
	[DP_OP_IDIV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 2, 0, 0, 0,
	},
	[DP_OP_PBL] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 1, 0, 0, 0,
	},
	[DP_OP_PBR] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 1, 0, 0, 0,
	},
	[DP_OP_PBL_BIT] = {
		2, DP_OPERAND_BIT, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_PBR_BIT] = {
		2, DP_OPERAND_BIT, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_PZL] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 1, 0, 0, 0,
	},
	[DP_OP_PZR] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 1, 0, 0, 0,
	},
	[DP_OP_PZL_BIT] = {
		2, DP_OPERAND_BIT, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_PZR_BIT] = {
		2, DP_OPERAND_BIT, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_SX_LABEL] = {
		5, DP_OPERAND_LABEL, DP_FLOW_HANDLER,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_UX] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_RX] = {
		1, DP_OPERAND_NONE, DP_FLOW_RAISE,
		0, 3, 0, 0, 0, 0,
	},
	[DP_OP_PUSH_X] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 3, 0, 0, 0,
	},
	[DP_OP_PUSH_LP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_PLP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_POP_LP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_ST] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_PURGE_ST] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_TRACE_LV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 0, 0, 0, 0,
	},
	[DP_OP_TRACE_GV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 0, 0, 0, 0,
	},
	[DP_OP_TRACE_PV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 0, 0, 0, 0,
	},
	[DP_OP_PUSH_SBP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_POP_SBP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 0, 0, 0, 0,
	},
	[DP_OP_PUSH_TSP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_POP_TSP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 0, 0, 0, 0,
	},
	[DP_OP_PUSH_SBP_SLOT] = {
		3, DP_OPERAND_SLOT, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_POP_SBP_SLOT] = {
		3, DP_OPERAND_SLOT, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_PUSH_TSP_SLOT] = {
		3, DP_OPERAND_SLOT, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_POP_TSP_SLOT] = {
		3, DP_OPERAND_SLOT, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_COPY_SBP_SLOT] = {
		3, DP_OPERAND_SLOT, DP_FLOW_NEXT,
		0, 0, 0, 0, 0, 1,
	},
	[DP_OP_COPY_TSP_SLOT] = {
		3, DP_OPERAND_SLOT, DP_FLOW_NEXT,
		0, 0, 0, 0, 0, 1,
	},
	[DP_OP_PUSH_STP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_POP_STP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_SAVE_SBP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_RESTORE_SBP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_SAVE_TSP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_RESTORE_TSP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, -1, 0, 0, 0,
	},
	[DP_OP_COPY_SBP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 1,
	},
	[DP_OP_COPY_TSP] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 1,
	},
	[DP_OP_LOG] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, -1, 0, 0, 0,
	},
	[DP_OP_LOG_LV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 0, 0, 0, 0,
	},
	[DP_OP_LOG_GV] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 0, 0, 0, 0,
	},
	[DP_OP_CALLK] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_KERNEL | DP_INSN_WRITES, 1, 1, 0, 0, 0,
	},
	[DP_OP_MALLOC] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 1, 0, 0, 0,
	},
	[DP_OP_FREE] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_PUSH_WID] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_PUSHH_U8_COUNT] = {
		3, DP_OPERAND_COUNT16, DP_FLOW_NEXT,
		0, 2, 0, 0, 1, 0,
	},
	[DP_OP_PUSHH_U16_COUNT] = {
		3, DP_OPERAND_COUNT16, DP_FLOW_NEXT,
		0, 2, 0, 0, 1, 0,
	},
	[DP_OP_PUSHH_U32_COUNT] = {
		3, DP_OPERAND_COUNT16, DP_FLOW_NEXT,
		0, 2, 0, 0, 1, 0,
	},
	[DP_OP_PUSHH_U64_COUNT] = {
		3, DP_OPERAND_COUNT16, DP_FLOW_NEXT,
		0, 2, 0, 0, 1, 0,
	},
	[DP_OP_POPH_U8_COUNT] = {
		3, DP_OPERAND_COUNT16, DP_FLOW_NEXT,
		0, 2, 0, 1, 0, 0,
	},
	[DP_OP_POPH_U16_COUNT] = {
		3, DP_OPERAND_COUNT16, DP_FLOW_NEXT,
		0, 2, 0, 1, 0, 0,
	},
	[DP_OP_POPH_U32_COUNT] = {
		3, DP_OPERAND_COUNT16, DP_FLOW_NEXT,
		0, 2, 0, 1, 0, 0,
	},
	[DP_OP_POPH_U64_COUNT] = {
		3, DP_OPERAND_COUNT16, DP_FLOW_NEXT,
		0, 2, 0, 1, 0, 0,
	},
	[DP_OP_PUSH_TID] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_UID] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_GID] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_TIME] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_COMM] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 2, 0, 0, 0,
	},
	[DP_OP_PUSH_ADDR_SYMBOL] = {
		3, DP_OPERAND_SYMBOL, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_TLS_SYMBOL] = {
		3, DP_OPERAND_SYMBOL, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_A_ARGUMENT] = {
		2, DP_OPERAND_ARGUMENT, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_F_ARGUMENT] = {
		2, DP_OPERAND_FLOAT, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_E_KEPT] = {
		2, DP_OPERAND_KEPT, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_POP_E_KEPT] = {
		2, DP_OPERAND_KEPT, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_SEG2LIN] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_KERNEL, 2, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_IO_U8] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_KERNEL | DP_INSN_WRITES, 1, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_IO_U16] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_KERNEL | DP_INSN_WRITES, 1, 1, 0, 0, 0,
	},
	[DP_OP_PUSH_IO_U32] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_KERNEL | DP_INSN_WRITES, 1, 1, 0, 0, 0,
	},
	[DP_OP_POP_IO_U8] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_KERNEL | DP_INSN_WRITES, 2, 0, 0, 0, 0,
	},
	[DP_OP_POP_IO_U16] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_KERNEL | DP_INSN_WRITES, 2, 0, 0, 0, 0,
	},
	[DP_OP_POP_IO_U32] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_KERNEL | DP_INSN_WRITES, 2, 0, 0, 0, 0,
	},
	[DP_OP_LOG_I8] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_I8_NAME] = {
		3, DP_OPERAND_NAME, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_I16] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_I16_NAME] = {
		3, DP_OPERAND_NAME, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_I32] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_I32_NAME] = {
		3, DP_OPERAND_NAME, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_I64] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_I64_NAME] = {
		3, DP_OPERAND_NAME, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_U8] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_U8_NAME] = {
		3, DP_OPERAND_NAME, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_U16] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_U16_NAME] = {
		3, DP_OPERAND_NAME, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_U32] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_U32_NAME] = {
		3, DP_OPERAND_NAME, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_U64] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_U64_NAME] = {
		3, DP_OPERAND_NAME, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_F32] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_F32_NAME] = {
		3, DP_OPERAND_NAME, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_F64] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_F64_NAME] = {
		3, DP_OPERAND_NAME, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_HEX] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_HEX_NAME] = {
		3, DP_OPERAND_NAME, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_PTR] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_LOG_PTR_NAME] = {
		3, DP_OPERAND_NAME, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_KEY_COUNT] = {
		2, DP_OPERAND_COUNT8, DP_FLOW_NEXT,
		0, 0, 0, 1, 0, 0,
	},
	[DP_OP_KEY_STR] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 2, 0, 0, 0, 0,
	},
	[DP_OP_KEY_COMM] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_MADD_MAP] = {
		3, DP_OPERAND_MAP, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_MINC_MAP] = {
		3, DP_OPERAND_MAP, DP_FLOW_NEXT,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_MGET_MAP] = {
		3, DP_OPERAND_MAP, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_MHAS_MAP] = {
		3, DP_OPERAND_MAP, DP_FLOW_NEXT,
		0, 0, 1, 0, 0, 0,
	},
	[DP_OP_MSET_MAP] = {
		3, DP_OPERAND_MAP, DP_FLOW_NEXT,
		0, 1, 0, 0, 0, 0,
	},
	[DP_OP_EXIT_FACILITY_ONCE] = {
		3, DP_OPERAND_FACILITY, DP_FLOW_END,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_MDEL_MAP] = {
		3, DP_OPERAND_MAP, DP_FLOW_NEXT,
		0, 0, 0, 0, 0, 0,
	},
	[DP_OP_KEY_USTACK] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_USTACK, 0, 0, 0, 0, 0,
	},
	[DP_OP_KEY_USTACK_DEPTH] = {
		2, DP_OPERAND_DEPTH, DP_FLOW_NEXT,
		DP_INSN_USTACK, 0, 0, 0, 0, 0,
	},
	[DP_OP_KEY_TEXT_COUNT] = {
		2, DP_OPERAND_COUNT8, DP_FLOW_NEXT,
		0, 0, 0, 1, 0, 0,
	},
	[DP_OP_PUSH_TEXT_COUNT] = {
		2, DP_OPERAND_COUNT8, DP_FLOW_NEXT,
		0, 2, 0, 0, 1, 0,
	},
	[DP_OP_MLOAD_CELL] = {
		5, DP_OPERAND_CELL, DP_FLOW_NEXT,
		0, 0, 0, 0, 1, 0,
	},
	[DP_OP_MSTORE_CELL] = {
		5, DP_OPERAND_CELL, DP_FLOW_NEXT,
		0, 0, 0, 1, 0, 0,
	},
	[DP_OP_LOG_USTACK] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_USTACK, 0, 0, 0, 0, 0,
	},
	[DP_OP_LOG_USTACK_DEPTH] = {
		2, DP_OPERAND_DEPTH, DP_FLOW_NEXT,
		DP_INSN_USTACK, 0, 0, 0, 0, 0,
	},
	[DP_OP_LOG_KSTACK] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_KERNEL, 0, 0, 0, 0, 0,
	},
	[DP_OP_LOG_KSTACK_DEPTH] = {
		2, DP_OPERAND_DEPTH, DP_FLOW_NEXT,
		DP_INSN_KERNEL, 0, 0, 0, 0, 0,
	},
	[DP_OP_KEY_KSTACK] = {
		1, DP_OPERAND_NONE, DP_FLOW_NEXT,
		DP_INSN_KERNEL, 0, 0, 0, 0, 0,
	},
	[DP_OP_KEY_KSTACK_DEPTH] = {
		2, DP_OPERAND_DEPTH, DP_FLOW_NEXT,
		DP_INSN_KERNEL, 0, 0, 0, 0, 0,
	},
};

const struct dp_register dp_registers[DP_REGISTERS] = {
	{ /* rax */
		0xffffffffffffffff, 10, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* rbx */
		0xffffffffffffffff, 5, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* rcx */
		0xffffffffffffffff, 11, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* rdx */
		0xffffffffffffffff, 12, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* rsi */
		0xffffffffffffffff, 13, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* rdi */
		0xffffffffffffffff, 14, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* rbp */
		0xffffffffffffffff, 4, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* r8 */
		0xffffffffffffffff, 9, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* r9 */
		0xffffffffffffffff, 8, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* r10 */
		0xffffffffffffffff, 7, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* r11 */
		0xffffffffffffffff, 6, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* r12 */
		0xffffffffffffffff, 3, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* r13 */
		0xffffffffffffffff, 2, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* r14 */
		0xffffffffffffffff, 1, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* r15 */
		0xffffffffffffffff, 0, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* rsp */
		0xffffffffffffffff, 19, 1, 0,
		DP_REG_POP_USER,
	},
	{ /* rip */
		0xffffffffffffffff, 16, 1, 0,
		DP_REG_POP_USER,
	},
	{ /* rflags */
		0xffffffffffffffff, 18, 1, 0,
		DP_REG_POP_USER | DP_REG_FLAGS,
	},
	{ /* eax */
		0xffffffff, 10, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* ebx */
		0xffffffff, 5, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* ecx */
		0xffffffff, 11, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* edx */
		0xffffffff, 12, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* esi */
		0xffffffff, 13, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* edi */
		0xffffffff, 14, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* ebp */
		0xffffffff, 4, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* r8d */
		0xffffffff, 9, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* r9d */
		0xffffffff, 8, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* r10d */
		0xffffffff, 7, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* r11d */
		0xffffffff, 6, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* r12d */
		0xffffffff, 3, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* r13d */
		0xffffffff, 2, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* r14d */
		0xffffffff, 1, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* r15d */
		0xffffffff, 0, 1, 0,
		DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* esp */
		0xffffffff, 19, 1, 0,
		0,
	},
	{ /* eip */
		0xffffffff, 16, 1, 0,
		0,
	},
	{ /* eflags */
		0xffffffff, 18, 1, 0,
		DP_REG_POP_USER | DP_REG_FLAGS,
	},
	{ /* cs */
		0xffff, 17, 1, 0,
		0,
	},
	{ /* ss */
		0xffff, 20, 1, 0,
		0,
	},
	{ /* ds */
		0xffff, 23, 1, 0,
		0,
	},
	{ /* es */
		0xffff, 24, 1, 0,
		0,
	},
	{ /* fs */
		0xffff, 25, 1, 0,
		0,
	},
	{ /* gs */
		0xffff, 26, 1, 0,
		0,
	},
	{ /* fs_base */
		0xffffffffffffffff, 21, 1, 0,
		0,
	},
	{ /* gs_base */
		0xffffffffffffffff, 22, 1, 0,
		0,
	},
	{ /* fcw */
		0xffff, 0, 1, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* fsw */
		0xffff, 0, 1, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* ftw */
		0xff, 0, 1, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* mxcsr */
		0xffffffff, 0, 1, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* fr0 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* fr1 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* fr2 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* fr3 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* fr4 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* fr5 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* fr6 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* fr7 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* xmm0 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* xmm1 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* xmm2 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* xmm3 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* xmm4 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* xmm5 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* xmm6 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* xmm7 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* xmm8 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* xmm9 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* xmm10 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* xmm11 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* xmm12 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* xmm13 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* xmm14 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* xmm15 */
		0xffffffffffffffff, 0, 2, 0,
		DP_REG_FPU | DP_REG_POP_USER | DP_REG_POP_KERNEL,
	},
	{ /* cr0 */
		0xffffffffffffffff, 0, 1, 0,
		DP_REG_KERNEL,
	},
	{ /* cr2 */
		0xffffffffffffffff, 1, 1, 0,
		DP_REG_KERNEL,
	},
	{ /* cr3 */
		0xffffffffffffffff, 2, 1, 0,
		DP_REG_KERNEL,
	},
	{ /* cr4 */
		0xffffffffffffffff, 3, 1, 0,
		DP_REG_KERNEL,
	},
	{ /* dr0 */
		0xffffffffffffffff, 4, 1, 0,
		DP_REG_KERNEL,
	},
	{ /* dr1 */
		0xffffffffffffffff, 5, 1, 0,
		DP_REG_KERNEL,
	},
	{ /* dr2 */
		0xffffffffffffffff, 6, 1, 0,
		DP_REG_KERNEL,
	},
	{ /* dr3 */
		0xffffffffffffffff, 7, 1, 0,
		DP_REG_KERNEL,
	},
	{ /* dr4 */
		0xffffffffffffffff, 8, 1, 0,
		DP_REG_KERNEL,
	},
	{ /* dr5 */
		0xffffffffffffffff, 9, 1, 0,
		DP_REG_KERNEL,
	},
	{ /* dr6 */
		0xffffffffffffffff, 10, 1, 0,
		DP_REG_KERNEL,
	},
	{ /* dr7 */
		0xffffffffffffffff, 11, 1, 0,
		DP_REG_KERNEL,
	},
	{ /* gdtr */
		0xffffffffffffffff, 12, 2, 0,
		DP_REG_KERNEL,
	},
	{ /* idtr */
		0xffffffffffffffff, 13, 2, 0,
		DP_REG_KERNEL,
	},
	{ /* ldtr */
		0xffff, 14, 1, 0,
		DP_REG_KERNEL,
	},
	{ /* tr */
		0xffff, 15, 1, 0,
		DP_REG_KERNEL,
	},
	{ /* msr */
		0xffffffffffffffff, 16, 1, 1,
		DP_REG_KERNEL,
	},
	{ /* cpuid */
		0xffffffffffffffff, 17, 4, 1,
		DP_REG_KERNEL,
	},
};
#endif /* DP_ISA_TABLES */

#endif /* DP_ISA_H */
