"""The byte formats of topics and stores, each with its version tag."""
