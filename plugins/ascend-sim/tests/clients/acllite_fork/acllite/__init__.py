"""The package that the acllite fork (files/59183154261.py) belongs to; only the fork's own module was published."""
