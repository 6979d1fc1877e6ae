"""Runs on machines that are elsewhere: the files and commands that start them there."""
