"""The only code, besides the flows, that knows Bytewax."""
