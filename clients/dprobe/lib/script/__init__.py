"""Scripts: running what the compiler makes of one, through a session."""
