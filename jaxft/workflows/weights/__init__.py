"""Which model a user's path means, and its weights: opened, loaded, imported, exported, averaged, verified."""
