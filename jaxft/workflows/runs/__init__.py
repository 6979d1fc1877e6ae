"""A run's directory, what its processes agree on, and programs that are kept on disk."""
