"""The language server: what editors ask about scripts."""
