"""A strict stand-in for Graphcore's `poprt` package."""
