"""Values of a target as people read them: from bytes and types to trees, text and JSON."""
