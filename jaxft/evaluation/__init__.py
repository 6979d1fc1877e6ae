"""Metrics and the evaluators that compute them on held-out data."""
