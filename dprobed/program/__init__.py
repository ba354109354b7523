"""The probe language: programs as values, their bytecode, the verifier."""
