"""DetectorFacts: what the file of a trained detector says of itself."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveInt
from torchvision.models.detection import FasterRCNN

from nasattn.arch import Architecture
from nasattn.detect.loop import DetectRecipe
from nasattn.detect.model import build_backbone, build_detector
from nasattn.spec import Name
from nasattn.tensor_file import FileFacts


class DetectorFacts(FileFacts):
    """A detector's: `resolution` is a picture's short side, `data` the folder."""

    format: ClassVar[str] = "nasattn-detector-2"
    noun: ClassVar[str] = "detector"

    arch: Architecture  # whole, its own head included, which a detector does without
    classes: Annotated[tuple[Name, ...], Field(min_length=1)]
    strides: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    out_chs: Annotated[int, Field(gt=0, le=4096)]
    recipe: DetectRecipe
    annotations: dict[Name, Name]  # sha256 of each split's, 12 hex digits
    epoch: Annotated[int, Field(ge=0)] = 0  # after which the tensors were kept

    @property
    def run(self) -> dict[str, Any]:
        return {
            "network": self.network_id,
            "strides": list(self.strides),
            "out_chs": self.out_chs,
            "resolution": self.resolution,
            "annotations": self.annotations,
            "recipe": self.recipe.model_dump(mode="json"),
            "seed": self.seed,
            "init": self.init,
        }

    def build(self) -> FasterRCNN:
        """A detector of this form; its weights come from torch's global generator."""
        return build_detector(
            build_backbone(self.arch),
            len(self.classes),
            self.strides,
            resolution=self.resolution,
            out_chs=self.out_chs,
            mean=self.mean,
            std=self.std,
        )
