"""Names that PopRT's published programs import from this private module."""

#: Key of the description of merged inputs, in a model's metadata and in a PopEF's opaque blobs. The text is our own.
sHostConcatRunnerConfig = "HostConcatRunnerConfig"  # noqa: N816 - the vendor's name
