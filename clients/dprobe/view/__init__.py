"""What a terminal or a pipe is shown: tables, records, ``dprobe top``."""
