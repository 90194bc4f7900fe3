"""The papers' networks: parameters and multiply-adds by hand, map sizes, small pictures."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from nasattn.arch import Architecture, parse_architecture
from nasattn.attention.eca import eca_kernel
from nasattn.baselines import BASELINES, Published, get_baseline
from nasattn.baselines.baseline import PICTURES, Verdict
from nasattn.baselines.mobile import LAM_LADDER
from nasattn.cost import count_macs, count_params
from nasattn.errors import UnknownNameError
from nasattn.layers import AdaptiveFeatureFusion
from nasattn.model import Network, build_model
from nasattn.paths import replace_paths
from tests.sweep import sweep


def weightless(arch: Architecture, num_classes: int = 1000) -> Network:
    """The network with shapes alone."""
    with torch.device("meta"):
        return build_model(arch, num_classes)


def map_sides(network: nn.Module, parts: list[nn.Module], x: Tensor) -> list[int]:
    """Side of the map that leaves each part."""
    sides: list[int] = []
    for part in parts:
        part.register_forward_hook(lambda _, __, y: sides.append(y.shape[-1]))
    network.eval()(x)
    return sides


# Paper 000's Table 1 at 224: expansion, width, blocks, stride of the first
LAM_PLAN = (
    (1, 16, 2, 1),
    (1.5, 24, 3, 2),
    (1.5, 32, 3, 2),
    (2, 64, 6, 2),
    (1.5, 96, 3, 1),
    (1.5, 160, 3, 2),
)


def lam_by_hand(hidden: int, eca: str = "", lsa: bool = False, terms: int = 0) -> tuple[int, int]:
    """(parameters, multiply-adds) at 224 for 1000 classes; a batch norm has 2 a channel."""
    side, chs = 112, 32
    params, macs = 27 * 32 + 2 * 32, 27 * 32 * side**2  # stem 3x3, stride 2
    for expansion, width, blocks, stride in LAM_PLAN:
        for block in range(blocks):
            inner = int(chs * expansion)
            if expansion != 1:
                params += chs * inner + 2 * inner
                macs += chs * inner * side**2
            side //= stride if block == 0 else 1
            params += 9 * inner + 2 * inner + inner * width + 2 * width
            macs += (9 * inner + inner * width) * side**2
            if eca == "genuine":  # k weights, used at each channel
                params += eca_kernel(width)
                macs += eca_kernel(width) * width
            if eca == "dense":
                params += width**2
                macs += width**2
            if lsa:
                params += 2 * 49 + 2
                macs += (2 * 49 + 2) * side**2
            chs = width
    params += 160 * 320 + 2 * 320
    macs += 160 * 320 * side**2
    if terms:
        square = 320 * 320 * (terms - 1)  # P_h, and W with three terms
        params += 96 * 320 + square + 2 * 320 * terms + terms
        macs += (96 * 320 + square) * side**2
    weights = 320 * hidden + hidden * 1000
    return params + weights + hidden + 1000, macs + weights


LADDER_BY_HAND = {
    "base": lam_by_hand(1037),
    "+eca": lam_by_hand(1037, eca="dense"),
    "+lsa": lam_by_hand(1037, eca="dense", lsa=True),
    "+aff": lam_by_hand(1037, eca="dense", lsa=True, terms=2),
    "full": lam_by_hand(1037, eca="dense", lsa=True, terms=3),
}


def test_lam_has_the_formulas_costs() -> None:
    network = weightless(get_baseline("lam").architecture)
    by_hand = lam_by_hand(1152, eca="genuine", lsa=True, terms=3)
    assert (count_params(network), count_macs(network, 224)) == by_hand


def test_lam_is_near_what_the_paper_prints() -> None:
    network = weightless(get_baseline("lam").architecture)
    assert count_params(network) == 2_206_049  # printed: 2.2 M
    assert round(count_macs(network, 224) / 1e6, 2) == 120.75  # printed: 120 M


@pytest.mark.parametrize("row", LAM_LADDER)
def test_lam_ladder_has_the_formulas_costs(row: str) -> None:
    network = weightless(LAM_LADDER[row])
    assert (count_params(network), count_macs(network, 224)) == LADDER_BY_HAND[row]


@pytest.mark.parametrize(
    ("row", "printed", "params", "macs"),
    [  # paper 000, Table 3 (in millions), and PAPERS.md, section 1.2
        ("base", 1.8, 1.8146, 105.17),
        ("+eca", 1.9, 1.9490, 105.31),
        ("+lsa", 2.0, 1.9510, 109.18),
        ("+aff", 2.1, 2.0854, 115.71),
        ("full", 2.2, 2.1884, 120.72),
    ],
)
def test_lam_ladder_rounds_to_table_3(row: str, printed: float, params: float, macs: float) -> None:
    network = weightless(LAM_LADDER[row])
    counted = count_params(network) / 1e6
    assert round(counted, 1) == printed
    assert round(counted, 4) == params
    assert round(count_macs(network, 224) / 1e6, 2) == macs


def test_mobilenet_v2_has_torchvisions_params() -> None:
    # torchvision's own figure, MobileNet_V2_Weights.meta["num_params"]
    assert count_params(weightless(get_baseline("mobilenet_v2").architecture)) == 3_504_872


def test_lam_has_the_map_sizes_of_table_1() -> None:
    arch = get_baseline("lam").architecture
    sizes = [112, 112, 56, 28, 14, 14, 7]
    assert arch.map_sizes(224) == sizes
    network = weightless(arch)
    parts = [network.stem, *network.stages]
    assert map_sides(network, parts, torch.empty(2, 3, 224, 224, device="meta")) == sizes


def test_lam_fuses_the_last_map_of_14_pixels() -> None:
    arch = get_baseline("lam").architecture
    assert arch.fusion_stage == 4
    fusion = weightless(arch).fusion
    assert isinstance(fusion, AdaptiveFeatureFusion)
    assert fusion.pool.kernel_size == 2  # 14 -> 7
    assert fusion.low[0].in_channels == 96


@pytest.mark.parametrize("name", sweep(BASELINES))
@pytest.mark.parametrize("resolution", [33, 224])
def test_baselines_have_the_maps_that_they_say(name: str, resolution: int) -> None:
    arch = get_baseline(name).architecture.at_resolution(resolution)
    network = weightless(arch, num_classes=10)
    x = torch.empty(1, 3, resolution, resolution, device="meta")
    sizes = arch.map_sizes(resolution)
    assert map_sides(network, [network.stem, *network.stages], x) == sizes
    assert sizes[-1] >= min(4, resolution)
    maps = network.feature_maps(x)
    assert {s: m.shape[1] for s, m in maps.items()} == network.feature_chs
    assert [m.shape[2] for m in maps.values()] == [sizes[1 + i] for i in arch.strides.values()]
    assert network(x).shape == (1, 10)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("resolution", [8, 16, 32])
def test_networks_of_many_strides_end_with_four_pixels(name: str, resolution: int) -> None:
    arch = get_baseline(name).architecture
    if max(arch.strides) == 32:
        assert arch.at_resolution(resolution).map_sizes(resolution)[-1] == 4


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_stay_as_drawn(name: str) -> None:
    baseline = get_baseline(name)
    drawn_for = 32 if name.endswith(CIFAR_NAMES) else 224
    assert baseline.architecture.at_resolution(drawn_for) == baseline.architecture
    assert baseline.architecture.at_resolution(224) == baseline.architecture


CIFAR_NAMES = ("_cifar", "wrn16_10", "wrn16_10_lgam", "resnext29_32x4d", "resnext29_32x4d_lgam")
COUNTED, MEASURED = {"params", "macs"}, {"top1", "top1_error", "map", "latency_ms"}


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_under_their_name_and_say_their_source(name: str) -> None:
    baseline = BASELINES[name]
    assert baseline.name == name
    assert baseline.source
    for figure in baseline.published:
        assert figure.paper in ("000", "001", "002", "003", "004")
        assert figure.metric in COUNTED | MEASURED
        assert figure.metric in MEASURED or figure.where in PICTURES
        assert figure.value < 1 or figure.metric in COUNTED | {"latency_ms"}
        assert figure.why or figure.verdict != "no"


@pytest.mark.parametrize(
    ("printed", "counted", "agrees"),
    [
        ("11.17 M", 11_174_000, True),  # rounded
        ("62.3 M", 62_378_344, True),  # cut
        ("62.3 M", 62_400_000, False),
        ("120 M", 120_746_000, True),
        ("2.2 M", 2_149_999, False),
        ("3.5 M", 3_450_001, True),
    ],
)
def test_published_agrees_to_its_printed_digits(printed: str, counted: int, agrees: bool) -> None:
    figure = Published("params", printed, "ImageNet", "000, Table 2", "match")
    assert figure.agrees(counted) is agrees


def test_published_agrees_within_its_tolerance() -> None:
    figure = Published("macs", "4.14 G", "ImageNet", "003, Table 2", "match", 0.02)
    assert figure.agrees(4.14e9 * 1.0199)
    assert not figure.agrees(4.14e9 * 0.979)


@pytest.mark.parametrize(
    ("metric", "verdict"),
    [("params", None), ("macs", None), ("top1", "match"), ("map", "no"), ("latency_ms", "fit")],
)
def test_published_has_a_verdict_if_and_only_if_it_can_be_counted(
    metric: str, verdict: Verdict | None
) -> None:
    with pytest.raises(ValueError, match=f"{metric} 4.2 M: what is counted, only, has a verdict"):
        Published(metric, "4.2 M", "ImageNet", "000, Table 2", verdict)


def test_baselines_have_the_family_of_their_table() -> None:
    families = {name: row.family for name, row in BASELINES.items()}
    assert set(families.values()) == {"mobile", "resnet", "resnest", "alexnet"}
    assert families["lam"] == "mobile"
    assert families["wrn16_10"] == "resnet"
    assert families["resneskt50"] == "resnest"
    assert families["alexnet_se"] == "alexnet"


@pytest.mark.parametrize("name", ["lam", "resnet18", "wrn16_10", "resnest50_fast", "alexnet"])
def test_at_resolution_lets_the_cost_grow_with_the_picture_between_its_steps(name: str) -> None:
    deep = get_baseline(name).architecture
    drawn = replace_paths(deep, {f"stages.{i}.depth": 1 for i in range(len(deep.stages))})
    macs, plan = {}, {}
    networks: dict[str, Network] = {}
    for resolution in (8, 12, 16, 24, 28, 32, 48, 56, 64, 96, 112, 128, 192, 224):
        arch = drawn.at_resolution(resolution)
        plan[resolution] = arch.arch_id
        network = networks.setdefault(arch.arch_id, weightless(arch, num_classes=10))
        macs[resolution] = count_macs(network, resolution)
    for small, large in pairwise(macs):
        assert plan[small] != plan[large] or macs[small] < macs[large]
    for resolution in macs.keys() & {2 * r for r in macs}:
        # AlexNet's stem pads less where its stride is 4: 23 pixels are left of 96, but 24 of 48
        assert macs[resolution // 2] <= macs[resolution] * (1.25 if name == "alexnet" else 1.001)
    assert max(macs, key=macs.__getitem__) == 224


@pytest.mark.parametrize(
    ("resolution", "stride", "sizes"),
    [
        (224, 4, [55, 27, 13, 13, 13]),
        (64, 2, [32, 16, 8, 8, 8]),
        (32, 2, [16, 8, 4, 4, 4]),
        (29, 1, [29, 14, 7, 7, 7]),
        (16, 1, [16, 8, 4, 4, 4]),
        (8, 1, [8, 8, 4, 4, 4]),
    ],
)
def test_at_resolution_halves_the_stride_of_alexnets_stem(
    resolution: int, stride: int, sizes: list[int]
) -> None:
    arch = get_baseline("alexnet").architecture.at_resolution(resolution)
    assert arch.stem.stride == stride
    assert arch.map_sizes(resolution) == sizes


@pytest.mark.parametrize(
    ("name", "ids"),
    [  # at 32, 16 and 8 pixels; a change would orphan stored results
        ("mobilenet_v2", ("ee9973aa1cdb", "dd04cc8ce7e4", "307849e73c05")),
        ("lam", ("c7fe37321c38", "099a6b5786dd", "a53c21dd3b49")),
    ],
)
def test_at_resolution_keeps_its_networks(name: str, ids: tuple[str, ...]) -> None:
    arch = get_baseline(name).architecture
    assert tuple(arch.at_resolution(r).arch_id for r in (32, 16, 8)) == ids


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_survive_plain_data(name: str) -> None:
    arch = BASELINES[name].architecture
    again = parse_architecture(arch.model_dump(mode="json"))
    assert again == arch
    assert again.arch_id == arch.arch_id


def test_baselines_have_different_networks() -> None:
    ids = [baseline.architecture.arch_id for baseline in BASELINES.values()]
    assert len(set(ids)) == len(ids)


def test_get_baseline_refuses_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown network 'lan'; did you mean 'lam'\?"):
        get_baseline("lan")


def test_arch_ids_are_what_stored_studies_know() -> None:
    # A change here orphans every stored result: new fields must have defaults that keep the ids.
    assert {name: row.architecture.arch_id for name, row in BASELINES.items()} == {
        "lam": "32fbc26600d3",
        "lam_ladder": "796732ed8462",
        "lam_ladder_base": "201098edb2ed",
        "lam_ladder_eca": "a9307af3692d",
        "lam_ladder_lsa": "2a90a34d152e",
        "lam_ladder_aff": "b6758ec4e2a7",
        "mobilenet_v2": "19cd12e3c264",
        "resnet18_cifar": "9b11afc45360",
        "resnet18": "9fc2809a3782",
        "resnet18_se_cifar": "af520c964797",
        "resnet18_se": "afeca8f96038",
        "resnet18_sge_cifar": "c5374f6d8b1d",
        "resnet18_sge": "b9d9e335152b",
        "resnet18_cbam_cifar": "5f96e27d6f6a",
        "resnet18_cbam": "e89aec37c3a9",
        "resnet18_bam_cifar": "07ae393a3b7d",
        "resnet18_bam": "75ae63609fed",
        "resnet18_lgam_cifar": "ec548b2fd0ce",
        "resnet18_lgam": "33f05b04d3e2",
        "resnet20_cifar": "485bcaa72469",
        "resnet32_cifar": "987bd5b24220",
        "resnet56_cifar": "7a5c59c95f3f",
        "resnet34": "e69c73583a5c",
        "resnet34_cifar": "6c9e77c3768e",
        "resnet34_lgam_cifar": "5790ed7c916e",
        "wrn16_10": "14081a5a4073",
        "wrn16_10_lgam": "190032b1e654",
        "resnext29_32x4d": "25a6e9ba5991",
        "resnext29_32x4d_lgam": "666811ff8ca6",
        "resnet50": "72cdd78ff7cd",
        "resnet101": "d0010c9db0ec",
        "resnext50_32x4d": "3734714eb677",
        "resnext101_32x4d": "bd19980f51ba",
        "seresnext50_32x4d": "c97ea267c5f9",
        "seresnext101_32x4d": "f01bc445b8b6",
        "skresnext50_32x4d": "faa534964363",
        "skresnext101_32x4d": "5be53c3782f9",
        "resnet50_cbam": "fd6759eafd8c",
        "resnet101_cbam": "6bc98eef58e4",
        "resnest50_fast": "418a6139c1bb",
        "resnest50": "6cf54e67ca7d",
        "resnest101_fast": "9c4b23d10f4a",
        "resnest101": "440fa5b0f33a",
        "resnest200": "4212e5693c31",
        "resneskt50": "2bb621cb648b",
        "resneskt101": "260509da7600",
        "resneskt200": "89318bbd0c45",
        "resneskt50_paper": "71f660071a6a",
        "resneskt101_paper": "b1c3aa1be997",
        "resneskt200_paper": "c6e3703ab274",
        "alexnet": "71f6bd627517",
        "alexnet_spatial": "19202ea940c8",
        "alexnet_se": "2c982939b519",
        "alexnet_nl": "015dfe8bf446",
    }
