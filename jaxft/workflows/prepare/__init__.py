"""A recipe's data before training: prepared, shown, counted."""
