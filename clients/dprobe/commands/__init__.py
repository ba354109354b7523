"""The commands of ``dprobe``: one module each, with its options and what it does."""
