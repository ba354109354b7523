"""One process seen through ptrace: threads, registers, memory, injected system calls."""
