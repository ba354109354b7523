"""ELF and DWARF files: symbols, lines, separate debug files, boundaries of instructions."""
