"""Sending: signed requests out, outcomes in, through the egress guard."""
