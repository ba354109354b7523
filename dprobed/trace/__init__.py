"""Traces: records as CTF, JSON or text, in files that other tools read, or in the journal."""
