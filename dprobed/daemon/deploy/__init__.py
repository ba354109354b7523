"""Global probepoints: deployments of programs to all selected processes, future ones included."""
