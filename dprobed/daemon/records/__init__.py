"""Records in the daemon: to clients, to handlers of a facility, to trace sessions."""
