"""Code from outside: how it is loaded, and the tables that it adds names to."""
