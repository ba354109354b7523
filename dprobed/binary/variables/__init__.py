"""Types, functions and variables of a module, as its debug information says."""
