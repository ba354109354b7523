// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * `exit dump` in the kernel: the registers and the stack behind the log, and,
 * where the module was loaded with allow_crash=1, a crash dump of all of it.
 *
 * What is behind the log are items like those in it, so that whoever reads
 * records can read them: a value for each register, a string for each function
 * that is on the stack, the innermost first.
 */
#include <linux/kernel.h>
#include <linux/moduleparam.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "bridge.h"

/* Functions of a stack, and bytes for the name of one. */
#define DPB_FRAMES 32
#define DPB_FRAME 96

/* All that a dump can have: the prefix of a value has its kind and the word. */
#define DPB_DUMP_MOST (ARRAY_SIZE(dpb_register_names) * (3 + 1 + 8 + 8) + \
		       DPB_FRAMES * (3 + DPB_FRAME))

/* Set when the module is loaded, and never again. */
static bool allow_crash __ro_after_init;
module_param(allow_crash, bool, 0444);
MODULE_PARM_DESC(allow_crash, "`exit dump` panics, so that kdump writes a crash dump (default 0)");

/* In the order of enum dp_reg: those that are kept at a hit. */
static const char dpb_register_names[][9] = {
	"r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8",
	"rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "rflags",
	"rsp", "ss",
};

static u8 *dpb_put_item(u8 *to, s32 token, const char *text)
{
	u32 size = strlen(text);

	*to++ = token;
	*to++ = size;
	*to++ = size >> 8;
	return to;
}
NOKPROBE_SYMBOL(dpb_put_item);

static u8 *dpb_put_register(u8 *to, const char *name, u64 word)
{
	to = dpb_put_item(to, DP_ITEM_VALUE, name);
	*to++ = DP_VALUE_HEX;
	memcpy(to, &word, sizeof(word));
	to += sizeof(word);
	return memcpy(to, name, strlen(name)) + strlen(name);
}
NOKPROBE_SYMBOL(dpb_put_register);

static u8 *dpb_put_frame(u8 *to, unsigned long address, bool called)
{
	char text[DPB_FRAME];

	/* Where it goes on is behind the call, and may be behind the function. */
	snprintf(text, sizeof(text), called ? "%pB" : "%pS", (void *)address);
	to = dpb_put_item(to, DP_ITEM_STRING, text);
	return memcpy(to, text, strlen(text)) + strlen(text);
}
NOKPROBE_SYMBOL(dpb_put_frame);

static u8 *dpb_put_stack(u8 *to, struct dp_env *env)
{
	u64 frames[DPB_FRAMES];
	u32 count = dp_env_stack(env, frames, DPB_FRAMES), i;

	for (i = 0; i < count; i++)
		to = dpb_put_frame(to, frames[i], i || !env->has_registers);
	return to;
}
NOKPROBE_SYMBOL(dpb_put_stack);

/* At a tracepoint and a static hook there are words in place of registers. */
bool dpb_has_registers(const struct dpb_place *place)
{
	if (place->kind == DPROBES_HOOK)
		return place->exit.hook->symbol;
	return place->kind != DPROBES_TRACEPOINT;
}
NOKPROBE_SYMBOL(dpb_has_registers);

/**
 * dpb_dump_init() - make room for dumps, if a program asks for some
 * @program: its facilities are there
 * @cpu: of it, all zeros here
 *
 * Return: 0 or -ENOMEM.
 */
int dpb_dump_init(const struct dp_program *program, struct dpb_cpu *cpu)
{
	u32 i;

	for (i = 0; i < program->def.facility_count; i++)
		if (program->facilities[i] == DP_FACILITY_DUMP)
			break;
	if (i == program->def.facility_count)
		return 0;
	if (!dpb_fails())
		cpu->dump = kvmalloc(DPB_DUMP_MOST, GFP_KERNEL_ACCOUNT);
	return cpu->dump ? 0 : -ENOMEM;
}

/**
 * dpb_dump() - what a hit has behind its log because it ends by `exit dump`
 * @place: where
 * @cpu: of its program; gets it
 * @regs: there
 *
 * Context: between dpb_enter() and dpb_leave().
 */
void dpb_dump(const struct dpb_place *place, struct dpb_cpu *cpu,
	      struct pt_regs *regs)
{
	bool process = place->kind == DPROBES_FILE;
	struct dp_env env = { regs, process, dpb_has_registers(place) };
	u8 *to = cpu->dump;
	u32 i;

	for (i = 0; env.has_registers && i < ARRAY_SIZE(dpb_register_names); i++)
		to = dpb_put_register(to, dpb_register_names[i],
				      dp_env_reg(&env, false, i));
	to = dpb_put_stack(to, &env);
	cpu->dump_size = to - cpu->dump;
}
NOKPROBE_SYMBOL(dpb_dump);

/**
 * dpb_crash() - crash the machine for a hit that ends by `exit dump`, if allowed
 * @place: where; its record is written
 *
 * Context: as dpb_dump().
 */
void dpb_crash(const struct dpb_place *place)
{
	const struct dp_program *program = &place->program->program;
	u32 major = program->def.major;
	u32 minor = program->probes[place->index].def.minor;

	if (!allow_crash)
		return;
	/* As it was asked for: a function may have several names. */
	if (place->symbol)
		panic("dprobes: `exit dump` of program %u.%u at %s+0x%llx", major,
		      minor, place->symbol, place->offset);
	panic("dprobes: `exit dump` of program %u.%u at %pS", major, minor,
	      (void *)place->address);
}
NOKPROBE_SYMBOL(dpb_crash);
