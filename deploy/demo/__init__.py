"""The demo: real payloads to a good, a slow and a failing endpoint, and every one accounted for."""
