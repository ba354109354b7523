/* Every kind of instruction, each with an exact result. at_NAME is the instruction to probe. */
#include "hazard.h"
#include <sys/mman.h>

long word = 0x1122334455667788, counter, stored[4], table[2];
char text_in[64] = "the quick brown fox jumps over the lazy dog", text_out[64];
float floats[16] __attribute__((aligned(64))), sums[16] __attribute__((aligned(64)));

#define KIND(name, code)                                                                   \
    long kind_##name(long, long);                                                          \
    __asm__(".pushsection .text\n.globl kind_" #name ",at_" #name "\n"                     \
            ".type kind_" #name ",@function\n.type at_" #name ",@function\n"               \
            "kind_" #name ":\n" code "\n.size kind_" #name ",.-kind_" #name                \
            "\n.popsection");
#define AT(name) "at_" #name ": "

KIND(load, AT(load) "mov word(%rip),%rax\n ret")
KIND(store, AT(store) "movl $0x55,stored(%rip)\n mov stored(%rip),%rax\n ret")
KIND(lea, AT(lea) "lea word(%rip),%rax\n ret")
KIND(call, AT(call) "call kind_callee\n ret")
KIND(callee, AT(callee) "lea (%rdi,%rsi,2),%rax\n ret")
KIND(return_address, AT(return_address) "call 1f\n1: pop %rax\n lea 1b(%rip),%rcx\n sub %rcx,%rax\n ret")
KIND(call_register, "lea kind_callee(%rip),%rax\n" AT(call_register) "call *%rax\n ret")
KIND(call_memory, AT(call_memory) "call *table(%rip)\n ret")
KIND(call_stack, "push table(%rip)\n push $0\n" AT(call_stack) "call *8(%rsp)\n add $16,%rsp\n ret")
KIND(call_indexed, "lea table(%rip),%rcx\n xor %edx,%edx\n" AT(call_indexed) "call *(%rcx,%rdx,8)\n ret")
KIND(jump, "mov $1,%eax\n" AT(jump) "jmp 1f\n mov $2,%eax\n1: ret")
KIND(jump_near, "mov $1,%eax\n" AT(jump_near) ".byte 0xe9\n .long 1f-.-4\n mov $2,%eax\n1: ret")
KIND(jump_register, "lea 1f(%rip),%rcx\n mov $3,%eax\n" AT(jump_register) "jmp *%rcx\n mov $2,%eax\n1: ret")
KIND(jump_memory, AT(jump_memory) "jmp *table(%rip)")
KIND(tail_call, AT(tail_call) "jmp kind_callee")
KIND(taken, "mov $1,%eax\n cmp %rdi,%rdi\n" AT(taken) "je 1f\n mov $2,%eax\n1: ret")
KIND(not_taken, "mov $1,%eax\n cmp %rdi,%rdi\n" AT(not_taken) "jne 1f\n mov $2,%eax\n1: ret")
KIND(loop, "mov $5,%ecx\n xor %eax,%eax\n1: add $3,%eax\n" AT(loop) "loop 1b\n ret")
KIND(loop_self, "mov $5,%ecx\n" AT(loop_self) "loop at_loop_self\n mov %rcx,%rax\n ret")
KIND(jrcxz, "xor %ecx,%ecx\n mov $1,%eax\n" AT(jrcxz) "jrcxz 1f\n mov $2,%eax\n1: ret")
KIND(ret, "mov %rdi,%rax\n" AT(ret) "ret")
KIND(ret_pops, "call 1f\n ret\n1: mov (%rsp),%rax\n push %rax\n mov $9,%eax\n" AT(ret_pops) "ret $8")
KIND(rep_ret, "mov %rsi,%rax\n" AT(rep_ret) "rep ret")
KIND(syscall, "mov $39,%eax\n" AT(syscall) "syscall\n1: lea 1b(%rip),%rax\n sub %rcx,%rax\n ret")
KIND(int80, "push %rbx\n mov $20,%eax\n" AT(int80) "int $0x80\n pop %rbx\n mov $5,%eax\n ret")
KIND(movs, "lea text_in(%rip),%rsi\n lea text_out(%rip),%rdi\n mov $44,%ecx\n" AT(movs) "rep movsb\n mov %rcx,%rax\n ret")
KIND(scas, "lea text_in(%rip),%rdi\n mov $0x71,%eax\n mov $64,%ecx\n" AT(scas) "repne scasb\n mov %rcx,%rax\n ret")
KIND(stos, "lea 16+text_out(%rip),%rdi\n mov $0x2a,%eax\n mov $7,%ecx\n std\n" AT(stos) "rep stosb\n cld\n mov %rcx,%rax\n ret")
KIND(endbr, AT(endbr) "endbr64\n mov $6,%eax\n ret")
KIND(lock, "mov $1,%eax\n" AT(lock) "lock xadd %rax,counter(%rip)\n xor %eax,%eax\n ret")
KIND(cmpxchg16, "push %rbx\n xor %eax,%eax\n xor %edx,%edx\n mov $1,%ebx\n mov $2,%ecx\n"
     " sub $24,%rsp\n mov %rsp,%rdi\n and $-16,%rdi\n movq $0,(%rdi)\n movq $0,8(%rdi)\n"
     AT(cmpxchg16) "lock cmpxchg16b (%rdi)\n mov (%rdi),%rax\n add 8(%rdi),%rax\n add $24,%rsp\n pop %rbx\n ret")
KIND(push, AT(push) "push %rdi\n pop %rax\n ret")
KIND(pop, "push %rdi\n" AT(pop) "pop %rax\n ret")
KIND(push_rsp, AT(push_rsp) "push %rsp\n pop %rax\n sub %rsp,%rax\n ret")
KIND(nop, AT(nop) "nop\n mov $7,%eax\n ret")
KIND(leave, "push %rbp\n mov %rsp,%rbp\n sub $32,%rsp\n mov $8,%eax\n" AT(leave) "leave\n ret")
KIND(div, "mov $100,%eax\n xor %edx,%edx\n mov $7,%ecx\n" AT(div) "div %rcx\n imul $10,%rdx,%rdx\n add %rdx,%rax\n ret")
KIND(flags, "cmp $1,%rdi\n" AT(flags) "pushf\n pop %rax\n and $0xd5,%eax\n ret")
KIND(x87, "fld1\n" AT(x87) "fadd %st(0),%st\n sub $8,%rsp\n fistpll (%rsp)\n pop %rax\n ret")
KIND(sse, "cvtsi2sd %rdi,%xmm0\n" AT(sse) "addsd %xmm0,%xmm0\n cvttsd2si %xmm0,%rax\n ret")
KIND(avx, "vmovups floats(%rip),%ymm0\n" AT(avx) "vaddps floats(%rip),%ymm0,%ymm0\n"
     " vmovups %ymm0,sums(%rip)\n vzeroupper\n cvttss2si 28+sums(%rip),%rax\n ret")
KIND(avx512, "vmovups floats(%rip),%zmm0\n" AT(avx512) "vaddps floats(%rip),%zmm0,%zmm0\n"
     " vmovups %zmm0,sums(%rip)\n vzeroupper\n cvttss2si 60+sums(%rip),%rax\n ret")
KIND(segment, AT(segment) "mov %fs:0,%rax\n sub %fs:0x10,%rax\n ret")
KIND(page_end, "jmp 1f\n .balign 4096\n .skip 4088\n1: mov $11,%eax\n" AT(page_end) "mov word(%rip),%rcx\n ret")
KIND(last_byte, "jmp 1f\n .balign 4096\n .skip 4090\n1: mov $12,%eax\n" AT(last_byte) "nop\n ret")
KIND(bytes, "mov $1,%eax\n" AT(bytes) "push %rax\n push %rax\n nop\n pop %rcx\n pop %rax\n clc\n ret")

#define RUN(name, expected) {#name, kind_##name, (long)(expected)}
static const struct { const char *name; long (*run)(long, long); long expected; } kinds[] = {
    RUN(load, 0x1122334455667788), RUN(store, 0x55), RUN(lea, &word), RUN(call, 1 + 2 * 2),
    RUN(callee, 5), RUN(return_address, 0), RUN(call_register, 5), RUN(call_memory, 5),
    RUN(call_stack, 5), RUN(call_indexed, 5), RUN(jump, 1), RUN(jump_near, 1),
    RUN(jump_register, 3), RUN(jump_memory, 5), RUN(tail_call, 5), RUN(taken, 1),
    RUN(not_taken, 2), RUN(loop, 15), RUN(loop_self, 0), RUN(jrcxz, 1), RUN(ret, 1),
    RUN(ret_pops, 9), RUN(rep_ret, 2), RUN(syscall, 0), RUN(int80, 5), RUN(movs, 0),
    RUN(scas, 59), RUN(stos, 0), RUN(endbr, 6), RUN(lock, 0), RUN(cmpxchg16, 3), RUN(push, 1),
    RUN(pop, 1), RUN(push_rsp, 0), RUN(nop, 7), RUN(leave, 8), RUN(div, 14 + 20),
    RUN(flags, 0x44), RUN(x87, 2), RUN(sse, 2), RUN(avx, 14), RUN(avx512, 30), RUN(segment, 0),
    RUN(page_end, 11), RUN(last_byte, 12), RUN(bytes, 1),
};

static void round_of_all(void)
{
    memset(text_out, 0, sizeof text_out);
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (!strcmp(kinds[i].name, "avx512") && !__builtin_cpu_supports("avx512f"))
            continue;
        long got = kinds[i].run(1, 2);
        if (got != kinds[i].expected)
            say("FAILED %s gave %#lx\n", kinds[i].name, got);
    }
    CHECK(!memcmp(text_out, "the quick ", 10) && !memcmp(text_out + 10, "*******", 7));
    CHECK(!strcmp(text_out + 17, text_in + 17));
}

int main(void)
{
    table[0] = table[1] = (long)kind_callee;
    for (int i = 0; i < 16; i++)
        floats[i] = i;
    round_of_all();
    gate("ready");
    for (int i = 0; i < 20; i++)
        round_of_all();
    CHECK(counter == 21);
    gate("stopped");
    return finish();
}
