# A 32-bit program without a C library: says ready, waits for a byte, ends well.
    .globl _start
_start:
    mov $4, %eax
    mov $1, %ebx
    mov $ready, %ecx
    mov $6, %edx
    int $0x80
    mov $3, %eax
    xor %ebx, %ebx
    mov $byte, %ecx
    mov $1, %edx
    int $0x80
    mov $1, %eax
    xor %ebx, %ebx
    int $0x80
    .data
ready: .ascii "ready\n"
byte: .byte 0
