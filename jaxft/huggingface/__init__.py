"""Weights of Hugging Face's layout, read and written by one engine from one declarative file per architecture."""
