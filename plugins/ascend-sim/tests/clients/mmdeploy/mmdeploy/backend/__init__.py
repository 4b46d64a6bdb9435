"""Backends: of the base what a wrapper needs, of Ascend the repository's files."""
