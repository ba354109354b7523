"""What the kernel says of processes in general: /proc, and the events of processes."""
