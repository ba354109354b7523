/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What of the kernel's headers the interpreter needs, for user space.
 */
#ifndef DP_USER_H
#define DP_USER_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s16 s16;
typedef __s64 s64;
typedef __s32 s32;

#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile typeof(x) *)&(x) = (value))
#define NOKPROBE_SYMBOL(name)
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define fallthrough __attribute__((__fallthrough__))

#endif /* DP_USER_H */
