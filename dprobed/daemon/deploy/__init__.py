"""Global probepoints: programs for a selection of processes, those to come included."""
