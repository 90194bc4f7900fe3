"""build_detector: Faster R-CNN (Ren et al., 2015) with FPN (Lin et al., 2017) on our networks."""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from torchvision.ops.poolers import MultiScaleRoIAlign

from nasattn.arch import Architecture
from nasattn.detect.pictures import LONGEST
from nasattn.errors import ArchitectureError
from nasattn.model import Network, build_model
from nasattn.parts import FusionSpec, HeadSpec

STRIDES = (4, 8, 16, 32)
RATIOS = (0.5, 1.0, 2.0)  # height over width of the anchors
ROI_SIZE = 7
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A network's maps, merged from the coarsest down by a feature pyramid.

    Shapes: (N, 3, H, W) -> {"0": (N, out_chs, H / strides[0], W / strides[0]), ..., "pool": the
    coarsest one at half its side}.
    """

    def __init__(self, network: Network, strides: Sequence[int], out_chs: int) -> None:
        super().__init__()
        self.network = network
        self.strides = tuple(strides)
        self.out_channels = out_chs  # the name that torchvision asks for
        in_chs = [network.feature_chs[stride] for stride in strides]
        self.fpn = FeaturePyramidNetwork(in_chs, out_chs, extra_blocks=LastLevelMaxPool())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.network.feature_maps(x)
        merged: dict[str, Tensor] = self.fpn({str(i): maps[s] for i, s in enumerate(self.strides)})
        return merged


def build_backbone(arch: Architecture) -> Network:
    """The network of an architecture as far as a detector runs it: stem and stages, no head.

    Strides are taken as they stand: `at_resolution` would take away the maps that are asked for.
    """
    network = build_model(arch.model_copy(update={"head": HeadSpec(), "fusion": FusionSpec()}), 1)
    network.classifier = nn.Sequential()  # its weights would be kept, and never trained
    return network


def build_detector(
    network: Network,
    num_classes: int,
    strides: Sequence[int] = STRIDES,
    *,
    resolution: int = 800,
    out_chs: int = 256,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> FasterRCNN:
    """A detector of `num_classes` kinds of objects (the background is none) on a network's maps.

    Takes the network over, batch norm as it is. In training mode it maps a list of (3, H, W)
    pictures in 0 .. 1 and their targets to four losses, in eval mode pictures to boxes, labels
    (from 1) and scores. `resolution` is the short side in pixels to which pictures are brought.
    At 800 and strides 4 to 32 all sizes and samples are torchvision's. Raises ArchitectureError
    when the network lacks a stride, naming those that it has.
    """
    check_strides(network, strides)
    m = anchor_strides(resolution, max(strides))
    sides = [m * stride for stride in (*strides, 2 * max(strides))]
    return FasterRCNN(
        Backbone(network, strides, out_chs),
        min_size=resolution,
        max_size=round(LONGEST * resolution),
        image_mean=list(mean),
        image_std=list(std),
        size_divisible=max(strides),
        rpn_anchor_generator=AnchorGenerator(
            tuple((side,) for side in sides), (RATIOS,) * len(sides)
        ),
        box_roi_pool=MultiScaleRoIAlign(
            [str(i) for i in range(len(strides))],
            output_size=ROI_SIZE,
            sampling_ratio=2,
            # torchvision's 224 pixels at 8: an object of that side is pooled at stride 16.
            canonical_scale=28 * m,
            canonical_level=4,
        ),
        # Smaller pictures show fewer boxes to learn from: torchvision's 256 and 512 at 8.
        rpn_batch_size_per_image=32 * m,
        box_batch_size_per_image=64 * m,
        box_head=TwoMLPHead(out_chs * ROI_SIZE**2, 4 * out_chs),
        box_predictor=FastRCNNPredictor(4 * out_chs, num_classes + 1),
    )


def anchor_strides(resolution: int, coarsest: int) -> int:
    """Side of a level's anchors in strides of that level.

    8 as in torchvision; less where the anchors of the last level (twice the coarsest stride) would
    then be wider than a picture's short side, but at least 2, so that no object falls between.
    """
    return min(max(resolution // (2 * coarsest), 2), 8)


def check_strides(network: nn.Module, strides: Sequence[int]) -> None:
    """ArchitectureError unless the network has maps at these strides."""
    have = getattr(network, "strides", None)
    if have is None or not hasattr(network, "feature_maps"):
        raise ArchitectureError(
            f"{type(network).__name__}: gives no maps at named strides; a detector needs a network"
            " that is built from an Architecture"
        )
    if not strides or list(strides) != sorted(set(strides)):
        raise ArchitectureError(f"strides: must ascend, are {_words(strides) or 'none'}")
    for stride in strides:
        if stride not in have:
            raise ArchitectureError(
                f"strides: the network has no map at stride {stride}; it has {_words(have)}"
            )


def _words(strides: Sequence[int]) -> str:
    return ", ".join(map(str, strides))
