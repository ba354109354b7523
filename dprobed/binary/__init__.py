"""ELF and DWARF files: symbols, lines, separate debug files, instruction boundaries, USDT."""
