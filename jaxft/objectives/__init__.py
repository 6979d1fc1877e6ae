"""Objectives: what a stream's examples become, which head reads them, and what is minimized."""
