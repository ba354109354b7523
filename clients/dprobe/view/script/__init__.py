"""What scripts print, as bpftrace prints it."""
