"""Stand-ins for what is slow, or cannot be made to fail at the right moment."""
