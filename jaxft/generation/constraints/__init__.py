"""Regular expressions and JSON schemas as automata over a vocabulary."""
