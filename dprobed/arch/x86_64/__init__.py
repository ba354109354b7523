"""All that is x86-64: relocated instructions, registers as debuggers number them."""
