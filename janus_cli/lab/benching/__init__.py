"""`janus bench`: every decoding mode of a run in one table, and what users would pick instead beside it."""
