"""Secrets: what functions need to know and nobody else."""
