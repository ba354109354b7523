"""Core dumps as files: what goes in, the ELF file, where it is kept."""
