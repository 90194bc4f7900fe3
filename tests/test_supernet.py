"""The supernet: what a step does, that it goes on as if never stopped, and what is read of it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nasattn.bank import Bank, Subnet, cut, keys, open_bank
from nasattn.errors import EvaluationError, StudyError, WeightsError
from nasattn.estimate.bench import draw_networks
from nasattn.estimate.estimator import Ground
from nasattn.estimate.extremes import largest, smallest
from nasattn.estimate.shared_weights import BankFile
from nasattn.estimate.supernet import Supernet, SupernetSpec, calibrate, sandwich
from nasattn.estimate.table import estimate, prepare
from nasattn.evaluate import Setting, evaluate
from nasattn.model import build_model
from nasattn.objectives import get_objective
from nasattn.space import SearchSpace, load_space
from nasattn.testing import tiny_data
from nasattn.train.checkpoint import Checkpoint
from nasattn.train.loop import Epoch
from nasattn.train.recipe import RECIPES

TREE: dict[str, Any] = {
    "template": {
        "stem": {"width": 8},
        "stages": [
            {"depth": 1, "width": 8},
            {"depth": 1, "width": 8, "stride": 2, "attention": {"kind": "se"}},
        ],
    },
    "parameters": {
        "stages.0.depth": {"type": "int", "low": 1, "high": 2},
        "stages.1.width": {"type": "int", "low": 8, "high": 24, "step": 8},
        "stages.1.expansion": [1, 2],
        "stages.1.kernel": [5, 3],
        "stages.1.attention.kind": ["none", "se", "lsa"],
        "head.dropout": [0.0, 0.5],
    },
}
SPACE = SearchSpace.model_validate({"name": "tiny", **TREE})
OTHER = SearchSpace.model_validate(
    {"name": "tiny", **TREE, "parameters": {**TREE["parameters"], "stem.width": [8, 16]}}
)
DATA = tiny_data(n_per_class=16, resolution=8)
RECIPE = RECIPES["quick"].model_copy(update={"epochs": 2, "batch_size": 8})
SETTING = Setting(DATA, RECIPE, (get_objective("top1"),), seed=3)
NET = Supernet(SPACE, SETTING, RECIPE)
NETWORKS = [one.arch for one in draw_networks(SPACE, 3, 0, 8)]


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_extremes_take_every_choice_to_its_end() -> None:
    big, small = NET.extremes
    depths, widths = ([stage.depth for stage in a.stages] for a in (big, small))
    assert (depths, widths) == ([2, 1], [1, 1])
    assert (big.stages[1].width, small.stages[1].width) == (24, 8)
    assert (big.stages[1].expansion, small.stages[1].expansion) == (2, 1)
    assert (big.stages[1].kernel, small.stages[1].kernel) == (5, 3)
    assert small.stages[1].attention.kind == "none"
    assert big.stages[1].attention.kind != "none"
    assert big.head.dropout == 0  # of equals the first


def test_extremes_pass_over_what_cannot_be_built() -> None:
    space = load_space("resnet")  # groups of 64 do not divide every width

    def depth_and_width(arch: Any) -> tuple[float, ...]:
        return sum(s.depth for s in arch.stages), sum(s.width for s in arch.stages)

    deep, flat = (find(space, depth_and_width) for find in (largest, smallest))
    assert [stage.depth for stage in deep.stages] == [9, 9, 23, 3]
    assert [stage.depth for stage in flat.stages] == [1, 1, 1]


def parameters(archs: Sequence[Any]) -> dict[str, nn.Parameter]:
    bank = open_bank(archs, len(DATA.classes), seed=0)
    return {key: nn.Parameter(tensor) for key, tensor in bank.items()}


def test_sandwich_gives_labels_to_the_first_and_its_answers_to_the_others() -> None:
    big, small = NET.extremes
    x, y = torch.randn(8, 3, 8, 8), torch.arange(8) % 2
    bank, apart = parameters(NET.extremes), parameters(NET.extremes)
    loss = sandwich(bank, [Subnet.of(arch, 2) for arch in (big, small)], x, y)

    logits = Subnet.of(big, 2)(apart, x)
    own = cross_entropy(logits, y)
    own.backward()  # type: ignore[no-untyped-call]
    assert loss == own.detach()
    alone = {key: p.grad.clone() for key, p in apart.items() if p.grad is not None}
    p = logits.detach().softmax(1)
    q = Subnet.of(small, 2)(apart, x).softmax(1)
    (p * (p.log() - q.log())).sum(1).mean().backward()  # type: ignore[no-untyped-call]
    for key, weight in bank.items():
        assert (weight.grad is None) == (apart[key].grad is None)
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, apart[key].grad)
    stem = keys(small, build_model(small, 2))["stem.conv.conv.weight"]
    grad = bank[stem].grad
    assert grad is not None
    assert not torch.equal(grad, alone[stem])


@pytest.mark.slow
def test_a_training_moves_the_largest_and_learns() -> None:
    big, _ = NET.extremes
    curve: list[Epoch] = []
    longer = replace(NET, recipe=RECIPE.model_copy(update={"epochs": 12}))
    tensors = longer.train(curve.append)
    assert [epoch.number for epoch in curve] == [*range(1, 13)]
    assert curve[-1].loss < curve[0].loss
    assert curve[-1].top1 == 1  # dark and bright pictures, which any network tells apart
    first = open_bank((*longer.extremes, *longer.draw(12 * 4 * 2)), 2, SETTING.seed)
    assert tensors.keys() == first.keys()
    assert all(tensors[key].shape == tensor.shape for key, tensor in first.items())
    model = build_model(big, 2)
    for name, key in keys(big, model).items():
        shape = model.get_parameter(name).shape
        assert not torch.equal(cut(tensors[key], shape), cut(first[key], shape))
    # chance is -log 2
    assert all(longer.score(arch, Bank(tensors, "")) > -0.3 for arch in NETWORKS)


class Stopped(Exception):
    """The process dies."""


def stop(epoch: Epoch) -> None:
    raise Stopped


@pytest.mark.slow
def test_a_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = NET.train()
    checkpoint = Checkpoint(tmp_path / "c.pt", {})
    with pytest.raises(Stopped):
        NET.train(stop, checkpoint)
    rest: list[Epoch] = []
    assert equal(NET.train(rest.append, Checkpoint(tmp_path / "c.pt", {})), whole)
    assert [epoch.number for epoch in rest] == [2]
    assert not equal(replace(NET, setting=replace(SETTING, seed=4)).train(), whole)


def test_a_training_that_explodes_says_so() -> None:
    wild = RECIPE.model_copy(update={"optimizer": "sgd", "lr": 1e9, "schedule": "constant"})
    with pytest.raises(EvaluationError, match=r"the loss is (nan|inf) after epoch 1"):
        replace(NET, recipe=wild).train()


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_other_optimisers_train_too(schedule: Any) -> None:
    recipe = RECIPE.model_copy(update={"optimizer": "sgd", "lr": 0.01, "schedule": schedule})
    tensors = replace(NET, recipe=recipe, spec=SupernetSpec(n_random=1)).train()
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_calibrate_takes_statistics_from_the_pictures() -> None:
    model = build_model(NETWORKS[0], 2)
    images = torch.randn(30, 3, 8, 8) + 1
    model(images)  # statistics of their own are forgotten
    calibrate(model, images)
    conv, norm = (model.get_submodule(f"stem.conv.{part}") for part in ("conv", "norm"))
    assert isinstance(norm, nn.BatchNorm2d)
    maps = conv(images)
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, maps.var((0, 2, 3)))
    assert not any(part.training for part in model.modules())


def test_calibrate_needs_no_batch_of_one_picture() -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
    images = torch.randn(257, 3, 2, 2)  # 256 and one more
    calibrate(net, images)
    halves = images[:129], images[129:]
    means = [half.mean((0, 2, 3)) for half in halves]
    torch.testing.assert_close(net[1].running_mean, (means[0] + means[1]) / 2)


def test_calibrate_fits_networks_whose_blocks_run_for_some() -> None:
    tree = {"stem": {"width": 8}, "stages": [{"depth": 2, "width": 8, "run_share": 0.5}]}
    space = SearchSpace.model_validate(
        {"name": "some", "template": tree, "parameters": {"stages.0.run_share": [0.5, 1]}}
    )
    net = Supernet(space, SETTING, RECIPE)
    tensors = net.train()
    model = net.build(space.template.at_resolution(8), Bank(tensors, ""))
    thresholds = [float(t) for name, t in model.named_buffers() if name.endswith("threshold")]
    assert thresholds
    assert all(0 < t < 1 for t in thresholds)


def test_score_is_the_cross_entropy_of_the_plain_network() -> None:
    bank = Bank(open_bank(NETWORKS, 2, seed=0), "")
    arch = NETWORKS[1]
    model = build_model(arch, 2)
    bank.fill(arch, model)
    images = torch.from_numpy(DATA.train.images)
    calibrate(model, SETTING.normalise(images.float() / 255))
    split = DATA.val_search
    with torch.no_grad():
        logits = model(SETTING.normalise(torch.from_numpy(split.images).float() / 255))
    expected = -cross_entropy(logits, torch.from_numpy(split.labels))
    assert NET.score(arch, bank) == pytest.approx(float(expected), rel=1e-5)


def test_supernet_scores_networks_by_its_file(tmp_path: Path) -> None:
    ground = Ground(SPACE, tmp_path)
    once = prepare("supernet:1", SETTING, ground)
    assert once.value is not None
    assert [epoch.number for epoch in once.curve] == [1]
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    scores = [estimate("supernet:1", arch, SETTING, ground=ground).value for arch in NETWORKS]
    bank = Bank(replace(NET, recipe=RECIPE.model_copy(update={"epochs": 1})).train(), "")
    assert scores == [NET.score(arch, bank) for arch in NETWORKS]
    assert len(set(scores)) == 3

    again = prepare("supernet:1", SETTING, ground)  # it is there, at the cost that it had
    assert (again.value, again.curve) == (once.value, once.curve)
    assert again.seconds == pytest.approx(once.curve[0].seconds)
    assert path.read_bytes() == before


def test_prepare_goes_on_after_a_stop(tmp_path: Path) -> None:
    kept = replace(SETTING, checkpoints=tmp_path / "c")
    whole, halted = Ground(SPACE, tmp_path / "whole"), Ground(SPACE, tmp_path / "halted")
    for ground in (whole, halted):
        ground.folder.mkdir()
    prepare("supernet", kept, whole)
    with pytest.raises(Stopped):
        prepare("supernet", kept, halted, stop)
    assert not [*halted.folder.iterdir()]
    assert len([*(tmp_path / "c").iterdir()]) == 1
    found = prepare("supernet", kept, halted)
    assert [epoch.number for epoch in found.curve] == [1, 2]
    assert not [*(tmp_path / "c").iterdir()]
    scores = [
        [estimate("supernet", arch, SETTING, ground=ground).value for arch in NETWORKS]
        for ground in (whole, halted)
    ]
    assert scores[0] == scores[1]


LONG = replace(SETTING, recipe=RECIPE.model_copy(update={"epochs": 8}))


@pytest.mark.slow
def test_a_killed_preparing_goes_on_to_the_same_file(tmp_path: Path) -> None:
    code = (
        "import torch, sys; from pathlib import Path; from tests.test_supernet import *\n"
        "torch.set_num_threads(1); folder = Path(sys.argv[1])\n"
        "prepare('supernet', replace(LONG, checkpoints=folder / 'c'), Ground(SPACE, folder))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
    while not [*tmp_path.glob("c/*.pt")]:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not [*tmp_path.glob("*.safetensors")]
    kept = replace(LONG, checkpoints=tmp_path / "c")
    trained = [epoch.number for epoch in prepare("supernet", kept, Ground(SPACE, tmp_path)).curve]
    assert trained == [*range(1, 9)]
    (path,) = tmp_path.glob("*.safetensors")
    assert equal(load_file(path), replace(NET, setting=LONG, recipe=LONG.recipe).train())


@pytest.mark.slow
def test_inherit_begins_with_the_supernets_weights(tmp_path: Path) -> None:
    ground = Ground(SPACE, tmp_path)
    prepare("inherit:1", SETTING, ground)
    short = RECIPE.model_copy(update={"epochs": 1})
    for arch in NETWORKS:
        found = estimate("inherit:1", arch, SETTING, ground=ground)
        heir = replace(SETTING, recipe=short, bank=Bank(NET.train(), "of the whole recipe"))
        curve = evaluate(arch, heir).curve
        assert [(e.loss, e.top1) for e in found.curve] == [(e.loss, e.top1) for e in curve]
        assert curve[0].loss != evaluate(arch, replace(SETTING, recipe=short)).curve[0].loss


def test_a_training_from_shared_weights_has_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    setting = replace(SETTING, checkpoints=tmp_path)
    heir = replace(setting, bank=Bank({}, "supernet 0123"))
    for one in (setting, heir):
        with pytest.raises(Stopped):
            evaluate(NETWORKS[0], one, stop)
    assert len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize("name", ["supernet", "supernet:2", "inherit:1"])
def test_shared_weights_that_are_not_there_are_a_reason(tmp_path: Path, name: str) -> None:
    nowhere = estimate(name, NETWORKS[0], SETTING)
    assert "need a space, and a folder for its supernet" in nowhere.reason
    missing = estimate(name, NETWORKS[0], SETTING, ground=Ground(SPACE, tmp_path))
    assert missing.value is None
    assert missing.transient  # the next run trains them
    assert "the shared weights are not trained yet" in missing.reason
    assert str(tmp_path) in missing.reason


def test_prepare_refuses_what_has_nothing_to_prepare(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="estimator 'naswot': prepares nothing"):
        prepare("naswot", SETTING, Ground(SPACE, tmp_path))


def test_bank_file_of_another_space_is_refused(tmp_path: Path) -> None:
    run = NET.run | {"recipe_id": "r", "seed": 0}
    file = BankFile.of(tmp_path, run)
    tensors = {"place": torch.arange(4.0)}
    curve = (Epoch(1, 0.5, 0.25, 2.0),)
    file.write(tensors, curve)
    bank, rows = file.read()
    assert equal(dict(bank.tensors), tensors)
    assert rows == curve
    other = BankFile(
        file.path, Supernet(OTHER, SETTING, RECIPE).run | {"recipe_id": "r", "seed": 0}
    )
    message = f"{SPACE.space_id} then, {OTHER.space_id} now"
    with pytest.raises(EvaluationError, match=message) as error:
        other.read()
    assert str(error.value).startswith(f"{file.path}: is of another training (space: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"format": "nasattn-1"}, "not the weights of a supernet .format 'nasattn-1'"),
        ({"format": "nasattn-bank-1"}, "does not say how it was trained"),
        ({"format": "nasattn-bank-1", "run": "{", "curve": "[]"}, "does not say how"),
        ({"format": "nasattn-bank-1", "run": "{}", "curve": "[1]"}, "does not say how"),
    ],
)
def test_bank_file_of_something_else_is_refused(
    tmp_path: Path, facts: dict[str, str], message: str
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(save({"a": torch.zeros(1)}, facts))
    with pytest.raises(WeightsError, match=message):
        BankFile(path, {}).read()
    path.write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        BankFile(path, {}).read()


def test_space_ids_are_equal_for_equal_choices() -> None:
    renamed = SearchSpace.model_validate({"name": "other", "description": "the same", **TREE})
    assert renamed.space_id == SPACE.space_id != OTHER.space_id
    assert json.loads(json.dumps(NET.run)) == NET.run
