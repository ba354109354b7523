"""Native code: a probe's intermediate representation as machine code that runs in its target."""
