"""Implementations of the shard's store port."""
