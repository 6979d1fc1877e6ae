"""What the verbs do: each reads a recipe or a run, wires the parts and writes a run directory."""
