"""The command line: one file of commands per noun, gathered in `__main__`."""
