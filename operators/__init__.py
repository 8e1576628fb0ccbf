"""What to do: pure decisions. No clock, no chance, no I/O, no engine."""
