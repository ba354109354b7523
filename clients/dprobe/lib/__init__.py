"""The client library: a connection to a daemon, and what commands have in common."""
