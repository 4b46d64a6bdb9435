"""Stands in for the helper module that the event tests (files/61677913577.py) import and that was not published with them."""

import unittest


def switch_cases(case, names):
    """A suite with every test of `case`; the only selection that the program asks for."""
    if names != "all":
        raise ValueError(f"names: expected 'all', got {names!r}")
    return unittest.defaultTestLoader.loadTestsFromTestCase(case)
