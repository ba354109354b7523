"""Debug information (DWARF 2 to 5): entries, types, and where variables are."""
