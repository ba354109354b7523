"""All that is x86-64: instructions, registers, signal frames, system calls, core notes."""
