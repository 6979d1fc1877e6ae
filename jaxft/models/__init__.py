"""Linen modules: one block library from which every family is configured."""
