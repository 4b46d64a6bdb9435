"""Stands in for the repository's config.py, which needs PyTorch and transformers: what the engine reads, for a tiny model."""

from dataclasses import dataclass


@dataclass
class InferenceConfig:
    """Where the model is, and the shape of its key-value cache."""

    om_model_path: str
    past_key_value_shape: tuple = (1, 4, 2, 8)
