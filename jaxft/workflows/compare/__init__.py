"""Ways of training beside each other under matched conditions."""
