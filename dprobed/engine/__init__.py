"""How a probe fires: the mechanisms, and the address space that they change."""
