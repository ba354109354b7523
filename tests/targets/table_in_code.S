/* long dispatch(long n): jumps through a table between its own instructions, whose bytes look like
 * the beginnings of instructions. */
        .text
        .globl  dispatch
        .type   dispatch, @function
dispatch:
        .cfi_startproc
        and     $3, %edi
        lea     .Ltable(%rip), %rdx
        movslq  (%rdx,%rdi,4), %rax
        add     %rdx, %rax
        jmp     *%rax
.Ltable:
        .long   .Lfirst - .Ltable, .Lsecond - .Ltable, .Lfirst - .Ltable, .Lsecond - .Ltable
        .byte   0x48, 0xb8, 0x0f
.Lfirst:
        mov     $10, %eax
        ret
        .byte   0xe9
.Lsecond:
        mov     $11, %eax
        ret
        .cfi_endproc
        .size   dispatch, .-dispatch
        .section .note.GNU-stack,"",@progbits
