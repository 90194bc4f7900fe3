"""Pictures with their classes: decoded once, split by a stated rule, the test split sealed."""

from nasattn.data.images import ImageData, Skipped, Split
from nasattn.data.load import is_here, load_data, open_test
from nasattn.data.named import DATASETS

__all__ = ["DATASETS", "ImageData", "Skipped", "Split", "is_here", "load_data", "open_test"]
