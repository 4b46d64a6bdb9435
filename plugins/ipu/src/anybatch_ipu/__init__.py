"""anybatch on Graphcore IPUs, through PopRT. Importing it imports no SDK."""
