"""The commands of ``dprobe``, as click sees them."""
