"""The Bytewax dataflows: wiring only."""
