"""The history checker: what happened goes in, named violations of the contract come out."""
