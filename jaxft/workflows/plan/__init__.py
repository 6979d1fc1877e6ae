"""What a recipe needs on a topology, before any device is there."""
