"""Data: sources of rows, the embedded corpus and tokenizers; the token store, packing, mixing and the loader."""
