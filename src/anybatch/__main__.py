"""``python -m anybatch``: the command line, where the script is not on the path."""

from anybatch._cli import main

main()
