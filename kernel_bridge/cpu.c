// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The processor itself for the interpreter: its own registers, its ports, its
 * segments.
 *
 * Nothing here sleeps, and what is not there is found out, not faulted on.
 */
#include <linux/io.h>
#include <linux/kprobes.h>
#include <linux/uaccess.h>
#include <asm/debugreg.h>
#include <asm/desc.h>
#include <asm/msr.h>
#include <asm/processor.h>
#include <asm/special_insns.h>

#include "bridge.h"

static u64 dpb_control(u32 index)
{
	switch (index) {
	case DP_CPU_CR0:
		return read_cr0();
	case DP_CPU_CR2:
		return read_cr2();
	case DP_CPU_CR3:
		return __read_cr3();
	default:
		return __read_cr4();
	}
}
NOKPROBE_SYMBOL(dpb_control);

/* dr4 and dr5 are other names of dr6 and dr7, which the kernel switches off. */
static u64 dpb_debug(u32 index)
{
	u64 word;

	switch (index) {
	case DP_CPU_DR0:
		get_debugreg(word, 0);
		break;
	case DP_CPU_DR1:
		get_debugreg(word, 1);
		break;
	case DP_CPU_DR2:
		get_debugreg(word, 2);
		break;
	case DP_CPU_DR3:
		get_debugreg(word, 3);
		break;
	case DP_CPU_DR4:
	case DP_CPU_DR6:
		get_debugreg(word, 6);
		break;
	default:
		get_debugreg(word, 7);
		break;
	}
	return word;
}
NOKPROBE_SYMBOL(dpb_debug);

static void dpb_table(u32 index, u64 *words)
{
	struct desc_ptr table;

	if (index == DP_CPU_GDTR)
		native_store_gdt(&table);
	else
		store_idt(&table);
	words[0] = table.address;
	words[1] = table.size;
}
NOKPROBE_SYMBOL(dpb_table);

static u16 dpb_own_selector(u32 index)
{
	u16 selector;

	if (index == DP_CPU_LDTR)
		asm("sldt %0" : "=m"(selector));
	else
		asm("str %0" : "=m"(selector));
	return selector;
}
NOKPROBE_SYMBOL(dpb_own_selector);

static void dpb_cpuid(u32 leaf, u64 *words)
{
	u32 eax, ebx, ecx, edx;

	cpuid_count(leaf, 0, &eax, &ebx, &ecx, &edx);
	words[0] = eax;
	words[1] = ebx;
	words[2] = ecx;
	words[3] = edx;
}
NOKPROBE_SYMBOL(dpb_cpuid);

bool dp_env_cpu_reg(struct dp_env *env, u32 index, u64 taken, u64 *words)
{
	switch (index) {
	case DP_CPU_CR0 ... DP_CPU_CR4:
		words[0] = dpb_control(index);
		return true;
	case DP_CPU_DR0 ... DP_CPU_DR7:
		words[0] = dpb_debug(index);
		return true;
	case DP_CPU_GDTR:
	case DP_CPU_IDTR:
		dpb_table(index, words);
		return true;
	case DP_CPU_MSR:
		return taken <= U32_MAX && !rdmsrl_safe(taken, words);
	case DP_CPU_CPUID:
		dpb_cpuid(taken, words);
		return true;
	default:
		words[0] = dpb_own_selector(index);
		return true;
	}
}
NOKPROBE_SYMBOL(dp_env_cpu_reg);

u64 dp_env_port(struct dp_env *env, u16 port, u32 width)
{
	switch (width) {
	case 1:
		return inb(port);
	case 2:
		return inw(port);
	default:
		return inl(port);
	}
}
NOKPROBE_SYMBOL(dp_env_port);

void dp_env_set_port(struct dp_env *env, u16 port, u32 width, u64 value)
{
	switch (width) {
	case 1:
		outb(value, port);
		break;
	case 2:
		outw(value, port);
		break;
	default:
		outl(value, port);
		break;
	}
}
NOKPROBE_SYMBOL(dp_env_set_port);

/* An entry of a descriptor table; false: it is none. */
static bool dpb_entry(u64 table, u32 limit, u16 selector, void *to, u32 size)
{
	u32 at = selector & ~7U;

	return at + size - 1 <= limit &&
	       !copy_from_kernel_nofault(to, (void *)(table + at), size);
}
NOKPROBE_SYMBOL(dpb_entry);

/* Where the LDT of this CPU is. */
static bool dpb_ldt(const struct desc_ptr *gdt, u64 *base, u32 *limit)
{
	u16 selector = dpb_own_selector(DP_CPU_LDTR);
	struct ldttss_desc desc;

	if (!(selector & ~7) || !dpb_entry(gdt->address, gdt->size, selector,
					   &desc, sizeof(desc)))
		return false;
	*base = desc.base0 | desc.base1 << 16 | (u64)desc.base2 << 24 |
		(u64)desc.base3 << 32;
	*limit = desc.limit0 | desc.limit1 << 16;
	return true;
}
NOKPROBE_SYMBOL(dpb_ldt);

bool dp_env_segment(struct dp_env *env, u16 selector, u64 *base)
{
	struct desc_struct desc;
	struct desc_ptr gdt;
	u64 table;
	u32 limit;

	native_store_gdt(&gdt);
	table = gdt.address;
	limit = gdt.size;
	if (selector & 4 && !dpb_ldt(&gdt, &table, &limit))
		return false;
	if (!(selector & ~3) ||
	    !dpb_entry(table, limit, selector, &desc, sizeof(desc)) || !desc.p)
		return false;
	*base = get_desc_base(&desc);
	/* Those of the system have 64 bits: the TSS, the LDT. */
	if (!desc.s && dpb_entry(table, limit, (selector & ~7) + 8, &limit, 4))
		*base |= (u64)limit << 32;
	return true;
}
NOKPROBE_SYMBOL(dp_env_segment);
