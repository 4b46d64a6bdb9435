"""What PopRT's published tools import from this private module."""

import argparse

__all__ = ["PopHelpFormatter", "argparse"]


class PopHelpFormatter(argparse.HelpFormatter):
    """Help with one option per line in the usage, as the vendor's tools print it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)
