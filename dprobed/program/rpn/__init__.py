"""The original language: source text to programs, and its reference."""
