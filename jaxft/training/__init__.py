"""The train state, the pure train step and the loop around it."""
