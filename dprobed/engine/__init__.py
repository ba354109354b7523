"""How a probe fires: the tracer, its sites and slots, and what it says to the daemon."""
