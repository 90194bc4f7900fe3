"""The bank: what networks share, that it is their very weights, and where it ends."""

from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasattn.arch import Architecture, parse_architecture
from nasattn.bank import Bank, Subnet, cut, grown, keys, open_bank
from nasattn.model import build_model
from nasattn.space import load_space


def two_stages(width: int = 8, *, head: object = None, **stage: Any) -> Architecture:
    """Two stages of inverted residuals, the second one as told."""
    last = {"depth": 1, "width": width, "stride": 2, "expansion": 2, **stage}
    tree = {"stem": {"width": 8}, "stages": [{"depth": 1, "width": 8}, last], "head": head or {}}
    return parse_architecture(tree)


SMALL = two_stages()
LARGE = two_stages(16, depth=2, expansion=3, kernel=5, attention={"kind": "se"})


def bank_of(*archs: Architecture) -> dict[str, Tensor]:
    return open_bank(archs, num_classes=4, seed=0)


def keys_of(arch: Architecture) -> dict[str, str]:
    return keys(arch, build_model(arch, 4))


@pytest.mark.parametrize(
    ("have", "wanted", "part"),
    [
        ((4, 6), (2, 3), (slice(0, 2), slice(0, 3))),
        ((4, 2, 7, 7), (4, 1, 3, 5), (slice(0, 4), slice(0, 1), slice(2, 5), slice(1, 6))),
        ((1, 1, 5), (1, 1, 3), (slice(0, 1), slice(0, 1), slice(1, 4))),
        ((3,), (5,), (slice(0, 3),)),
        ((), (), ()),
    ],
)
def test_cut_is_the_first_channels_and_the_centre_of_the_kernel(
    have: tuple[int, ...], wanted: tuple[int, ...], part: tuple[slice, ...]
) -> None:
    tensor = torch.randn(have)
    assert torch.equal(cut(tensor, wanted), tensor[part])
    assert cut(tensor, wanted).data_ptr() == tensor[part].data_ptr()


def test_grown_keeps_the_shared_part() -> None:
    small = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    large = grown(small, (3, 4))
    assert torch.equal(large[:2, :2], small)
    assert set(large.flatten().tolist()) <= {1.0, 2.0, 3.0, 4.0}
    assert grown(small, (2, 2)) is small


def test_bank_is_as_large_as_the_largest() -> None:
    bank = bank_of(SMALL, LARGE)
    key = keys_of(SMALL)["stages.1.0.body.depthwise.0.weight"]
    assert key == keys_of(LARGE)["stages.1.0.body.depthwise.0.weight"]
    assert bank[key].shape == (24, 1, 5, 5)  # 8 x 3 channels
    assert bank[keys_of(SMALL)["classifier.0.weight"]].shape == (4, 16)
    again = bank_of(SMALL, LARGE)
    assert all(torch.equal(again[key], tensor) for key, tensor in bank.items())
    assert bank_of(LARGE, SMALL).keys() == bank.keys()


def test_bank_leaves_the_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    bank_of(SMALL)
    assert torch.equal(torch.get_rng_state(), before)


SE, ECA, LGAM = {"kind": "se"}, {"kind": "eca"}, {"kind": "lgam", "groups": 2}
CLASSIFIER, REDUCE = "classifier.0.weight", "stages.1.0.body.attention.reduce.weight"
MLP, DENSE = "stages.1.0.body.attention.mlps.0.0.weight", "stages.1.0.body.attention.conv.weight"


@pytest.mark.parametrize(
    ("name", "one", "other", "shared"),
    [
        ("stages.1.0.body.expand.0.weight", SMALL, two_stages(attention=SE), True),
        ("stages.1.0.body.expand.0.weight", SMALL, two_stages(24, kernel=7, expansion=6), True),
        (REDUCE, two_stages(attention=SE), two_stages(64, attention={**SE, "rd_ratio": 8}), True),
        (REDUCE, two_stages(attention=SE), two_stages(attention={"kind": "cbam"}), False),
        (MLP, two_stages(attention=LGAM), two_stages(16, attention=LGAM), True),
        (MLP, two_stages(attention=LGAM), two_stages(attention={**LGAM, "groups": 4}), False),
        (DENSE, two_stages(attention=ECA), two_stages(64, attention=ECA), True),
        (DENSE, two_stages(attention=ECA), two_stages(attention={**ECA, "dense": True}), False),
        (CLASSIFIER, SMALL, two_stages(head={"conv_width": 32}), True),
        (CLASSIFIER, SMALL, two_stages(head={"hidden": 32}), False),
        (CLASSIFIER, SMALL, two_stages(head={"pooling": "gem"}), False),
    ],
)
def test_sizes_share_and_choices_do_not(
    name: str, one: Architecture, other: Architecture, shared: bool
) -> None:
    assert (keys_of(one)[name] == keys_of(other)[name]) == shared


def test_dropout_does_not_part_classifiers() -> None:
    plain, dropped = (two_stages(head={"hidden": 32, "dropout": p}) for p in (0.0, 0.5))
    assert keys_of(plain)["classifier.2.weight"] == keys_of(dropped)["classifier.3.weight"]


def test_placements_have_weights_of_their_own() -> None:
    places = ("after_spatial", "before_add", "after_stage")
    found = [two_stages(attention={"kind": "lsa", "placement": p}, depth=2) for p in places]
    sets = [{key for key in keys_of(arch).values() if "lsa" in key} for arch in found]
    assert all(sets)
    assert not sets[0] & sets[1] | sets[0] & sets[2] | sets[1] & sets[2]


@pytest.mark.parametrize("arch", [SMALL, LARGE])
def test_subnet_is_the_plain_network_with_its_part_of_the_weights(arch: Architecture) -> None:
    bank = bank_of(LARGE, SMALL)
    subnet = Subnet.of(arch, 4)
    plain = build_model(arch, 4).train()
    Bank(bank, "").fill(arch, plain)
    for name, key in keys(arch, plain).items():
        own = plain.get_parameter(name)
        assert torch.equal(own, cut(bank[key], own.shape))
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(subnet(bank, x), plain(x))


def test_gradients_reach_the_part_of_a_subnet_alone() -> None:
    bank = {k: nn.Parameter(t) for k, t in bank_of(LARGE, SMALL).items()}
    subnet = Subnet.of(SMALL, 4)
    subnet(bank, torch.randn(4, 3, 8, 8)).square().sum().backward()  # type: ignore[no-untyped-call]
    shapes = {key: subnet.model.get_parameter(name).shape for name, key in subnet.keys.items()}
    assert shapes.keys() < bank.keys()
    for key, tensor in bank.items():
        if key not in shapes:
            assert tensor.grad is None
            continue
        assert tensor.grad is not None
        own = cut(tensor.grad, shapes[key])
        assert own.any()
        assert own.count_nonzero() == tensor.grad.count_nonzero()


def test_fill_leaves_what_the_bank_has_not() -> None:
    model, before = build_model(LARGE, 4), build_model(LARGE, 4)
    before.load_state_dict(model.state_dict())
    bank = bank_of(SMALL)
    Bank(bank, "").fill(LARGE, model)
    wide, name = keys_of(LARGE), "stages.1.0.body.depthwise.0.weight"
    own, old, shared = model.get_parameter(name), before.get_parameter(name), bank[wide[name]]
    assert torch.equal(own[:16, :, 1:4, 1:4], shared)
    assert torch.equal(own[16:], old[16:])
    assert torch.equal(own[:, :, 0], old[:, :, 0])
    for name in (name for name, key in wide.items() if key not in bank):
        assert torch.equal(model.get_parameter(name), before.get_parameter(name))


@pytest.mark.parametrize(("space", "n"), [("mobile", 3), ("alexnet", 2), ("nb_macro", 1)])
def test_networks_of_shipped_spaces_run_on_a_bank(space: str, n: int) -> None:
    check_space(space, n)


@pytest.mark.slow
@pytest.mark.parametrize("space", ["resnet", "resnest"])
def test_networks_of_large_spaces_run_on_a_bank(space: str) -> None:
    check_space(space, 2)


def check_space(name: str, n: int) -> None:
    space, rng = load_space(name), Random(1)
    archs = [space.decode(space.sample(rng)).at_resolution(16) for _ in range(n)]
    bank = bank_of(*archs)
    x = torch.randn(2, 3, 16, 16)
    for arch in archs:
        logits = Subnet.of(arch, 4)(bank, x)
        assert logits.shape == (2, 4)
        assert logits.isfinite().all()
