"""The script language: bpftrace's, compiled to programs of ours."""
