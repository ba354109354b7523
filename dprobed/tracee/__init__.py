"""One traced process through ptrace: threads, registers, memory, remote system calls."""
