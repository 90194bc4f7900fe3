"""NNI 3.0: its pruners end in our records, its evolution proposes for our searches, our spaces
are its model spaces."""

import ast
import copy
import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from nasattn.arch import Architecture
from nasattn.compress.narrow import narrow
from nasattn.compress.nni_pruners import NNI_PRUNERS, prune_with_nni, speed_up
from nasattn.compress.strands import find_strands, trace
from nasattn.cost import count_params
from nasattn.errors import SpaceError, StudyError, UnknownNameError
from nasattn.exchange.nni_choices import as_params, as_sample, shortcut
from nasattn.exchange.nni_space_file import nni_space_file, read_space
from nasattn.library import shipped
from nasattn.space import SearchSpace, load_space
from nasattn.tensor_file import read_tensors, write_tensors
from nasattn.testing import FakeEvaluator
from nasattn.weights import Facts
from tests.command import assert_refused, nasattn
from tests.nni import NEEDS_NNI
from tests.test_prune import (
    EXAMPLE,
    KINDS,
    Scale,
    cache,
    facts_of,
    network,
    silence,
    spread,
    tiny,
    trained,
)
from tests.test_search import VARIED, Search, sequence

__all__ = ["cache", "trained"]  # fixtures

ATTENDED = {
    kind: tiny(**{"stages.1.attention.kind": kind}) for kind in ("cbam", "lam", "eca", "sge", "gc")
}
# What NNI cannot prune, and what is said of it.
REFUSED = {
    "lgam": (
        tiny(**{"stages.1.attention.kind": "lgam", "stages.1.attention.groups": 4}),
        r"nni-l1: stages\.1\.0\.body\.attention makes channels of others' remains",
    ),
    "conditional": (
        tiny(**{"stages.1.run_share": 0.5}),
        r"it stops at 'stages\.1\.1.*torch-pruning may do it",
    ),
}


def answers(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(spread())
    return result


def some_losses(model: nn.Module) -> list[torch.Tensor]:
    return [model(x).logsumexp(1).sum() for x in spread(8).chunk(2)]


@NEEDS_NNI
@pytest.mark.parametrize("kind", [*KINDS, *ATTENDED])
def test_speed_up_equals_its_record(kind: str) -> None:
    """NNI's network, and one that is narrowed by the record alone."""
    model = network((KINDS | ATTENDED)[kind])
    cuts, sped_up = speed_up(model, EXAMPLE, 0.4, pruner="nni-l1")
    made = copy.deepcopy(model)
    narrow(made, cuts, "made")
    assert count_params(made) < count_params(model)
    torch.testing.assert_close(answers(sped_up), answers(made), rtol=1e-5, atol=1e-6)
    if kind in KINDS:  # attention over neighbours, or a mean of channels, sees those that are gone
        silence(model, cuts)
        torch.testing.assert_close(answers(made), answers(model), rtol=1e-5, atol=1e-5)


@NEEDS_NNI
@pytest.mark.parametrize("kind", REFUSED)
def test_prune_with_nni_refuses_what_nni_cannot(kind: str) -> None:
    arch, message = REFUSED[kind]
    with pytest.raises(StudyError, match=message):
        prune_with_nni(network(arch), EXAMPLE, pruner="nni-l1", ratio=0.5)


@NEEDS_NNI
def test_nni_l1_keeps_the_filters_with_the_largest_norms() -> None:
    """Of a block's inner channels, which no other layer makes: by the norms of its filters."""
    model = network(KINDS["basic"])
    record = prune_with_nni(model, EXAMPLE, pruner="nni-l1", ratio=0.5).record
    conv: Any = model.get_submodule("stages.0.0.body.conv1.0")
    norms = conv.weight.detach().abs().sum((1, 2, 3))
    (cut,) = [c for c in record if "stages.0.0.body.conv1.0:out" in c.members]
    assert list(cut.kept) == sorted(norms.topk(8).indices.tolist())
    assert {"stages.0.0.body.conv1.1:both", "stages.0.0.body.conv2.0:in"} < set(cut.members)


@NEEDS_NNI
def test_nni_taylor_keeps_what_weighs_most_in_the_loss() -> None:
    model = network(KINDS["basic"])
    how: dict[str, Any] = {"pruner": "nni-taylor", "ratio": 0.5, "losses": some_losses}
    record = prune_with_nni(model, EXAMPLE, **how).record
    conv: Any = model.get_submodule("stages.0.0.body.conv1.0")
    scores = torch.zeros(16)
    for loss in some_losses(model.eval()):
        (grad,) = torch.autograd.grad(loss, conv.weight)
        scores += (conv.weight.detach() * grad).square().sum((1, 2, 3))
    (cut,) = [c for c in record if "stages.0.0.body.conv1.0:out" in c.members]
    assert list(cut.kept) == sorted(scores.topk(8).indices.tolist())
    with pytest.raises(StudyError, match="nni-taylor: needs losses"):
        prune_with_nni(model, EXAMPLE, pruner="nni-taylor", ratio=0.5)


@NEEDS_NNI
@pytest.mark.parametrize("pruner", NNI_PRUNERS)
def test_prune_with_nni_repeats_and_leaves_all_as_it_was(pruner: str) -> None:
    model = network(KINDS["se"])
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    how: dict[str, Any] = {"pruner": pruner, "ratio": 0.25, "losses": some_losses}
    first = prune_with_nni(model, EXAMPLE, **how)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    assert prune_with_nni(model, EXAMPLE, **how).record == first.record
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    hidden = "stages.1.0.body.attention.reduce:out"  # an attention's hidden width stays
    assert not any(hidden in cut.members for cut in first.record)


@NEEDS_NNI
def test_prune_with_nni_reaches_its_target_and_ignores() -> None:
    model = network(KINDS["basic"])
    whole = count_params(model)
    ignore = ("stages.0.0.body.conv1",)
    target = int(0.6 * whole)
    made = prune_with_nni(model, EXAMPLE, pruner="nni-l1", target_params=target, ignore=ignore)
    assert whole * 0.45 < count_params(made.model) <= target
    assert not any("stages.0.0.body.conv1.0:out" in cut.members for cut in made.record)
    with pytest.raises(UnknownNameError, match=r"unknown layer 'stages\.9'"):
        prune_with_nni(model, EXAMPLE, pruner="nni-l1", ratio=0.5, ignore=("stages.9",))
    with pytest.raises(StudyError, match="no layer whose channels can go"):
        prune_with_nni(model, EXAMPLE, pruner="nni-l1", ratio=0.5, ignore=("stem", "stages"))


@NEEDS_NNI
def test_weights_file_brings_back_what_nni_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch, path = KINDS["se"], tmp_path / "w.safetensors"
    made = prune_with_nni(network(arch), EXAMPLE, pruner="nni-fpgm", ratio=0.3)
    write_tensors(path, made.model, facts_of(arch, made.record))
    monkeypatch.setitem(sys.modules, "nni", None)  # it is not needed to read
    file = read_tensors(path, Facts)
    assert torch.equal(answers(file.build()), answers(made.model))


def test_find_strands_ties_what_is_added_and_what_is_padded() -> None:
    layers = {s.layers: s.is_free for s in find_strands(trace(network(KINDS["basic"]), EXAMPLE))}
    stem, last = ("stem.conv.conv", "stages.0.0.body.conv2.0"), "stages.1.0.shortcut.0"
    assert layers[stem]
    assert any(last in strand and "stages.1.1.body.conv2.0" in strand for strand in layers)
    padded = find_strands(trace(network(KINDS["option_a"]), EXAMPLE))
    assert [s.layers for s in padded if s.is_free] == [
        ("stages.0.0.body.conv1.0",),
        ("stages.1.0.body.conv1.0",),
        ("stages.1.1.body.conv1.0",),
    ]
    sge = network(tiny(**{"stages.1.attention.kind": "sge", "stages.1.attention.groups": 4}))
    assert {s.blocks for s in find_strands(trace(sge, EXAMPLE))} == {1, 4}
    plugin = network(KINDS["se"])
    plugin.set_submodule("stages.1.0.body.attention", Scale(32))
    tied = [s.layers for s in find_strands(trace(plugin, EXAMPLE)) if not s.is_free]
    assert any("stages.1.0.body.conv2.0" in strand for strand in tied)


# ---- as a user types it

PRUNE = ["prune", "w/weights.safetensors", "--epochs", "1", "--train-size", "64", "-o", "p"]


@NEEDS_NNI
@pytest.mark.parametrize("pruner", ["nni-l1", "nni-taylor"])
def test_prune_command_with_nni(
    pruner: str,
    trained: Facts,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert nasattn(monkeypatch, *PRUNE, "--ratio", "0.3", "--pruner", pruner) == 0
    shown = capfd.readouterr()
    assert f"by {pruner}" in shown.out
    assert all(word not in shown.out + shown.err for word in ("Filter", "Warning", "speedup"))
    report = json.loads(Path("p/prune.json").read_text(encoding="utf-8"))
    assert report["options"]["pruner"] == pruner
    assert report["states"]["pruned"]["params"] < report["states"]["whole"]["params"]
    file = read_tensors(Path("p/weights.safetensors"), Facts)
    assert [cut.model_dump(mode="json") for cut in file.facts.pruned] == report["cuts"]
    assert sorted(path.name for path in Path().iterdir()) == ["p", "w"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pruner", "nni-l2"], "unknown pruner 'nni-l2'; did you mean 'nni-l1'?"),
        (["--pruner", "nni-l1", "--importance", "l1"], "--global: only with --pruner torch"),
        (["--pruner", "nni-l1", "--global"], "nni-l1 says itself how channels are ranked"),
        pytest.param(
            ["--pruner", "nni-l1", "--sensitivity"],
            "--sensitivity: only with --pruner torch-pruning",
            marks=NEEDS_NNI,
        ),
    ],
)
def test_prune_command_refuses_what_nni_has_not(
    arguments: list[str],
    message: str,
    trained: Facts,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["prune", "w/weights.safetensors", "--ratio", "0.5", *arguments]
    assert_refused(monkeypatch, capsys, command, message)


ABSENT = [
    ["prune", "w/weights.safetensors", "--ratio", "0.5", "--pruner", "nni-l1"],
    ["search", "--space", "mobile", "--data", "digits", "--sampler", "nni_evolution"],
]


@pytest.mark.parametrize("command", ABSENT, ids=lambda command: command[0])
def test_commands_name_the_extra_where_nni_is_absent(
    command: list[str],
    trained: Facts,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "nni"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nni", None)
    message = "needs NNI: pip install 'nasattn[nni]' and then pip install --no-deps nni==3.0"
    assert_refused(monkeypatch, capsys, command, message)
    assert [path.name for path in Path().iterdir()] == ["w"]


# ---- --sampler nni_evolution

RANGES: dict[str, Any] = {
    "stages.0.width": {"type": "int", "low": 8, "high": 64, "log": True},
    "stages.1.width": {"type": "int", "low": 16, "high": 64, "step": 16},
    "stages.1.expansion": {"type": "float", "low": 1, "high": 2, "step": 0.5},
    "stages.1.attention.kind": ["none", "se"],
    "head.pooling": ["avg", "gem"],
    "head.gem_p": {"type": "float", "low": 1, "high": 8, "log": True},
    "head.dropout": {"type": "float", "low": 0, "high": 0.5},
}


def ranges(**fields: Any) -> SearchSpace:
    """A space with every kind of distribution."""
    template = Architecture(
        stem={"width": 16}, stages=[{"depth": 1, "width": 16}, {"depth": 1, "width": 32}]
    )
    data = {"name": "ranges", "template": template, "parameters": RANGES}
    return SearchSpace.model_validate(data | fields)


@NEEDS_NNI
@pytest.mark.slow
def test_nni_evolution_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = Search(tmp_path, VARIED, sampler="nni_evolution")
    trials = whole(FakeEvaluator(), 30)
    (tmp_path / "pieces").mkdir()
    pieces = Search(tmp_path / "pieces", VARIED, sampler="nni_evolution")
    for n in (3, 21, 30):
        again = pieces(FakeEvaluator(), n)
    assert sequence(trials) == sequence(again)
    ids = [t.user_attrs["arch_id"] for t in trials]
    assert len(set(ids)) == len(ids)  # none is proposed twice


@NEEDS_NNI
@pytest.mark.slow
def test_nni_evolution_changes_few_fields_of_good_networks(tmp_path: Path) -> None:
    """After the first twenty: a child shares with its nearest elder more than chance would."""
    trials = Search(tmp_path, load_space("mobile"), sampler="nni_evolution", resolution=32)(
        FakeEvaluator(), 40
    )

    def differing(a: dict[str, Any], b: dict[str, Any]) -> int:
        return sum(a.get(name) != b.get(name) for name in a.keys() | b.keys())

    def nearest(i: int) -> int:
        return min(differing(trials[i].params, trials[j].params) for j in range(i))

    early = [nearest(i) for i in range(10, 20)]
    late = [nearest(i) for i in range(25, 40)]
    assert max(late) < min(early)


@NEEDS_NNI
def test_nni_evolution_proposes_from_every_distribution(tmp_path: Path) -> None:
    space = ranges(constraints=["macs<=1.5e6"])
    trials = Search(tmp_path, space, sampler="nni_evolution", objectives=("top1", "macs"))(
        FakeEvaluator(), 24
    )
    assert all(t.state.name == "COMPLETE" for t in trials)  # no limit was broken
    assert all(t.values[1] <= 1.5e6 for t in trials)
    assert len({t.params["head.dropout"] for t in trials}) > 5


# ---- export-space


@pytest.mark.parametrize("seed", range(3))
def test_shortcut_and_sample_keep_params(seed: int) -> None:
    space = ranges()
    for p in space.free:
        name, arguments = shortcut(p.distribution)
        assert name in ("choice", "uniform", "loguniform", "qloguniform")
        if name == "choice":
            assert all(map(p.distribution.contains, arguments[0]))
    rng = Random(seed)
    params: dict[str, Any] = {p.name: None for p in space.free}
    while None in params.values():
        params |= space.sample(rng)
    assert as_params(space, as_sample(space, params)) == params
    nearly = params | {"stages.1.expansion": params["stages.1.expansion"] + 1e-12}
    assert as_sample(space, nearly) == params


@pytest.mark.parametrize("name", shipped("search_spaces"))
def test_nni_space_file_holds_the_space(name: str) -> None:
    space = load_space(name)
    text = nni_space_file(space)
    data = ast.literal_eval(text[text.index("read_space(") + 10 : text.index("\n)\n") + 2])
    assert read_space(data) == space
    assert all(f"# {line}" in text for line in space.constraints) or not space.constraints
    compile(text, name, "exec")


HOSTILE = 'x\\\'\n"""\nimport os; os.abort() # {name} \u2028'


def test_nni_space_file_quotes_what_a_user_wrote() -> None:
    """Of the words of a space only literals get into the file."""
    words = ranges(name=HOSTILE, description=HOSTILE)
    tree, plain = (ast.parse(nni_space_file(s)) for s in (words, ranges()))
    (call,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SPACE"
    ]
    assert isinstance(call, ast.Call)
    assert read_space(ast.literal_eval(call.args[0])) == words
    shapes = [[type(node) for node in ast.walk(t)] for t in (tree, plain)]
    assert shapes[0] == shapes[1]  # the same code, with other literals
    with pytest.raises(SpaceError, match="the space in this file is no JSON"):
        read_space("{")


SAMPLE = """
import sys, warnings, numpy as np
warnings.simplefilter("ignore")
sys.path.insert(0, ".")
import exported
from nasattn.cost import count_params
from nasattn.model import build_model
from nasattn.space import load_space
from nni.nas.strategy.utils import RetrySamplingHelper
space = load_space({name!r})
whole = exported.Networks(num_classes=3, resolution=32)
rng = np.random.RandomState(0)
ids = set()
def draw():
    sample = {{}}
    return whole.random(sample, rng), sample
for _ in range(4):
    network, sample = RetrySamplingHelper().retry(draw)  # until the choices go together
    params = {{p.name: sample[p.name] for p in space.free}}
    assert network.architecture.arch_id == space.decode(params).arch_id
    arch = network.architecture.at_resolution(32)
    assert count_params(network) == count_params(build_model(arch, 3))
    ids.add(network.architecture.arch_id)
print(len(ids))
"""


def in_python(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@NEEDS_NNI
@pytest.mark.slow
@pytest.mark.parametrize("name", shipped("search_spaces"))
def test_nni_samples_the_networks_of_every_space(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert nasattn(monkeypatch, "export-space", name, "-o", "exported.py") == 0
    assert int(in_python(SAMPLE.format(name=name), tmp_path).splitlines()[-1]) > 1


EXPERIMENT = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, ".")
import nni, exported
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig, SequentialEngineConfig
from nni.nas.strategy import RegularizedEvolution

def judge(network):
    nni.report_final_result(float(sum(p.numel() for p in network.parameters())))

config = NasExperimentConfig(SequentialEngineConfig(), "simplified", "local")
config.max_trial_number = 8
strategy = RegularizedEvolution(population_size=4, sample_size=2, seed=0)
space = exported.Networks(num_classes=3, resolution=32)
run = NasExperiment(space, FunctionalEvaluator(judge), strategy, config)
run.run(debug=True)
best, = run.export_top_models(top_k=1, formatter="instance")
print("found", len([*strategy.list_models(sort=False)]), best.architecture.arch_id)
"""


@NEEDS_NNI
@pytest.mark.slow
def test_nni_experiment_searches_a_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NNI keeps its logs in the home folder; here, that is a folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert nasattn(monkeypatch, "export-space", "nb_macro", "-o", "exported.py") == 0
    lines = in_python(EXPERIMENT, tmp_path).splitlines()
    ((_, n, arch_id),) = [line.split() for line in lines if line.startswith("found")]
    assert n == "8"
    assert len(arch_id) == 12


def test_export_space_command_refuses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, message in [
        (["mobil"], "unknown search space 'mobil'; did you mean 'mobile'?"),
        (["mobile", "--to", "nnni"], "unknown form of a space 'nnni'; did you mean 'nni'?"),
        (["mobile", "-o", "space.yaml"], "--out: space.yaml must end in .py"),
    ]:
        assert_refused(monkeypatch, capsys, ["export-space", *arguments], message)
    assert not [*tmp_path.iterdir()]
