"""The trap engine: breakpoints, whose instructions run displaced."""
