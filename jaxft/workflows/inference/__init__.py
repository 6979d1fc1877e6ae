"""What a model does for a user: it writes, reads texts, talks, answers over HTTP."""
