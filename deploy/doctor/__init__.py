"""The doctor: what this machine offers, judged before it matters."""
