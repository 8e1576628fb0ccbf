"""The chaos harness: load, a witness, faults, and the checker that says what came of it."""
