"""The inline engine: a jump into native code that runs in the target itself, without a stop."""
