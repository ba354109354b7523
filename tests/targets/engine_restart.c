/* A read that a handler interrupts, and that is restarted; the handler calls probed(). */
#include "hazard.h"
#include <signal.h>

long slot_read(int fd, void *buffer, long size);
__asm__(".pushsection .text\n.globl slot_read,slot_read_syscall\n.type slot_read,@function\n"
        ".type slot_read_syscall,@function\n"
        "slot_read: xor %eax,%eax\nslot_read_syscall: syscall\n\tret\n"
        ".size slot_read,.-slot_read\n.popsection");

static void handler(int signo)
{
    CHECK(signo == SIGUSR1);
    probed();
    say("handled\n");
}

int main(void)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    char byte;
    CHECK(sigaction(SIGUSR1, &action, 0) == 0);
    gate("ready");
    CHECK(slot_read(0, &byte, 1) == 1);
    gate("stopped");
    return finish();
}
