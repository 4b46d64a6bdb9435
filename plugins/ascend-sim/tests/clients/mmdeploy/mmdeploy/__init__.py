"""A skeleton of mmdeploy, without its dependencies, around the repository's own Ascend files (see backend/ascend)."""
