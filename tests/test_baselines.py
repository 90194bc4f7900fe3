"""The papers' networks: parameters and multiply-adds by hand, map sizes, small pictures."""

from math import prod

import pytest
import torch
from torch import Tensor, nn

from nasattn.arch import Architecture, parse_architecture
from nasattn.attention.eca import eca_kernel
from nasattn.baselines import BASELINES, get_baseline
from nasattn.baselines.mobile import LAM_LADDER
from nasattn.cost import count_macs, count_params
from nasattn.errors import UnknownNameError
from nasattn.model import Network, build_model


def weightless(arch: Architecture) -> Network:
    """The network for 1000 classes with shapes alone."""
    with torch.device("meta"):
        return build_model(arch, num_classes=1000)


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
    assert fusion is not None
    assert fusion.pool.kernel_size == 2  # 14 -> 7
    assert fusion.low[0].in_channels == 96


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("resolution", [8, 16, 32])
def test_baselines_end_with_four_pixels_on_small_pictures(name: str, resolution: int) -> None:
    network = build_model(get_baseline(name).architecture.at_resolution(resolution), num_classes=10)
    x = torch.zeros(1, 3, resolution, resolution)
    assert map_sides(network, [network.conv], x) == [4]
    assert network(x).shape == (1, 10)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_stay_as_drawn_at_224(name: str) -> None:
    arch = get_baseline(name).architecture
    assert arch.at_resolution(224) == arch
    assert prod((arch.stem.stride, *(stage.stride for stage in arch.stages))) == 32


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_under_their_name_and_say_their_source(name: str) -> None:
    baseline = BASELINES[name]
    assert baseline.name == name
    assert baseline.source
    assert {p.metric for p in baseline.published} <= {"params", "macs", "top1", "latency_ms"}
    assert all(p.source and p.where for p in baseline.published)
    assert all(0 < p.value < 1 for p in baseline.published if p.metric == "top1")


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
        "mobilenet_v2": "19cd12e3c264",
    }
