"""The edge: the command line, the composition root, and the tools that ship with them."""
