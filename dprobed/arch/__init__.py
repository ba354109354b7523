"""Processor-dependent code."""
