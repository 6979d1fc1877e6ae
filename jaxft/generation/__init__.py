"""Text from a model: cached decoding, sampling, beam search, constraints and scores of given continuations."""
