"""Real services from Debian under load, for the tests and the soak: what they are started with, and
who asks them."""
