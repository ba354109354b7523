"""Core dumps as files: which memory they contain, the ELF file, the folder of cores."""
