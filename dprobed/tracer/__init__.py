"""The tracer process: its loop, its targets, the programs inserted into them."""
