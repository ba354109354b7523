"""Executors: from a verified program to what one hit of a probe does."""
