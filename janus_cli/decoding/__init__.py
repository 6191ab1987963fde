"""`janus decode`: a checkpoint and lines of text -> hypotheses, records, timing."""
