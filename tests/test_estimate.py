"""Estimators against closed forms and numpy; what they are worth against numbers by hand."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau
from torch import Tensor, nn

from nasattn.arch import Architecture, parse_architecture
from nasattn.attention.table import ATTENTIONS
from nasattn.baselines import BASELINES
from nasattn.blocks.shortcut import ShortcutBlock
from nasattn.cost import count_cost
from nasattn.errors import StudyError, UnknownNameError
from nasattn.estimate import proxies
from nasattn.estimate.estimator import Estimate, Length, Subject, measure
from nasattn.estimate.ledger import Ledger, Task
from nasattn.estimate.quality import (
    ceiling,
    combined,
    draws,
    kendall,
    n_top,
    partial_tau,
    quality,
    ranks,
    regret,
    signs,
    taus,
)
from nasattn.estimate.table import (
    ESTIMATORS,
    combination,
    estimate,
    get_estimator,
    parts_of,
    prepared_for,
)
from nasattn.evaluate import Setting, evaluate
from nasattn.objectives import get_objective
from nasattn.testing import tiny_data
from nasattn.train.loop import Epoch, subset
from nasattn.train.recipe import RECIPES
from nasattn.turns import Turns

DATA = tiny_data(n_per_class=8, resolution=8)
RECIPE = RECIPES["quick"].model_copy(update={"epochs": 3, "batch_size": 4})
SETTING = Setting(DATA, RECIPE, (get_objective("top1"),))
SCORES = ("naswot", "synflow", "zen", "snip", "grad_norm", "zico")


def small(head: object = None, **stage: object) -> Architecture:
    """Two stages with a shortcut and a fusion of their maps."""
    last = {"depth": 2, "width": 8, "stride": 2, **stage}
    tree = {"stem": {"width": 8}, "stages": [{"depth": 1, "width": 8}, last]}
    more = {"head": head or {}, "fusion": {"kind": "aff"}}
    return parse_architecture(tree | more)


SMALL = small(attention={"kind": "lam"})
SMALLS = {
    **{kind: small(attention={"kind": kind}) for kind in ATTENTIONS},
    "gem": small({"pooling": "gem", "gem_learnable": True, "dropout": 0.5}),
    "conditional": small(run_share=0.5),
}


def floats(*values: float) -> NDArray[np.float64]:
    return np.array(values, dtype=float)


def linear(*layers: list[list[float]]) -> nn.Sequential:
    """Linear layers without biases of these weights, for pictures of one pixel a channel."""
    net = nn.Sequential(nn.Flatten())
    for rows in layers:
        layer = nn.Linear(len(rows[0]), len(rows), bias=False)
        layer.weight.data = torch.tensor(rows)
        net.append(layer)
    return net


W = [[0.5, -1.0, 2.0], [1.0, 0.25, -0.5]]
X = torch.tensor([[1.0, 2.0, -1.0], [0.5, -0.5, 1.0], [2.0, 0.0, 1.0], [-1.0, 1.5, 0.5]])
PICTURES = X.view(4, 3, 1, 1)
LABELS = torch.tensor([0, 1, 1, 0])


def softmax_gradient(w: NDArray[np.float64], x: Tensor, y: Tensor) -> NDArray[np.float64]:
    """The mean over pictures of (softmax(W x) - onehot) x^T: (classes, inputs)."""
    inputs = x.double().numpy()
    p = np.exp(inputs @ w.T)
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y.numpy()] -= 1
    return np.asarray(p.T @ inputs / len(y))


def test_snip_is_the_sum_of_weights_times_gradients() -> None:
    expected = np.abs(np.array(W) * softmax_gradient(np.array(W), X, LABELS)).sum()
    assert proxies.snip(linear(W), (PICTURES, LABELS)) == pytest.approx(expected, rel=1e-5)


def test_grad_norm_is_the_length_of_the_gradient() -> None:
    expected = np.sqrt((softmax_gradient(np.array(W), X, LABELS) ** 2).sum())
    assert proxies.grad_norm(linear(W), (PICTURES, LABELS)) == pytest.approx(expected, rel=1e-5)


def test_grad_norm_adds_the_lengths_of_layers() -> None:
    net = linear(W, [[1.0, 0.5], [-1.0, 2.0]])
    loss = nn.functional.cross_entropy(net(PICTURES), LABELS)
    loss.backward()  # type: ignore[no-untyped-call]
    expected = sum(float(p.grad.norm()) for p in net.parameters() if p.grad is not None)
    assert proxies.grad_norm(net, (PICTURES, LABELS)) == pytest.approx(expected, rel=1e-5)


def test_zico_is_the_log_of_mean_over_spread() -> None:
    halves = [slice(0, 2), slice(2, 4)]
    g = np.abs([softmax_gradient(np.array(W), X[h], LABELS[h]) for h in halves])
    # Of two values the spread is half of their distance.
    expected = np.log(((g[0] + g[1]) / 2 / (np.abs(g[0] - g[1]) / 2)).sum())
    batches = [(PICTURES[h], LABELS[h]) for h in halves]
    assert proxies.zico(linear(W), batches) == pytest.approx(expected, rel=1e-4)


def test_zico_leaves_out_what_has_no_spread() -> None:
    assert proxies.zico(linear(W), [(PICTURES, LABELS)] * 2) == 0


def test_synflow_is_the_product_of_absolute_weights() -> None:
    a, b = np.abs(W), np.abs([[1.0, -2.0], [0.5, 3.0]])
    # Both layers see all of the flow 1^T |B| |A| 1.
    expected = np.log(2 * (b @ a).sum())
    net = linear(W, [[1.0, -2.0], [0.5, 3.0]])
    assert proxies.synflow(net, (3, 1, 1)) == pytest.approx(expected)


def test_synflow_is_not_cut_off_by_relu6() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3, 1, bias=False), nn.ReLU6(inplace=True))
    net[1].weight.data = torch.tensor([[100.0, 10.0, -1.0]])
    assert proxies.synflow(net, (3, 1, 1)) == pytest.approx(np.log(111))


def test_synflow_of_a_batch_norm_is_that_without() -> None:
    conv = nn.Conv2d(3, 2, 1, bias=False)
    normed = nn.Sequential(conv, nn.BatchNorm2d(2, eps=0))
    assert proxies.synflow(normed, (3, 4, 4)) == pytest.approx(
        proxies.synflow(nn.Sequential(conv), (3, 4, 4))
    )


def test_naswot_is_the_determinant_of_common_bits() -> None:
    layer = linear([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    net = nn.Sequential(layer, nn.ReLU6(inplace=True))
    # Signs of (a, b, c, a + b + c): 1101, 1011, 1011 (0 is off), 0111. The last but one equals
    # the second: it would make K singular.
    codes = [(1, 1, 0, 1), (1, 0, 1, 1), (0, 1, 1, 1)]
    kernel = [[sum(p == q for p, q in zip(a, b, strict=True)) for b in codes] for a in codes]
    assert kernel == [[4, 2, 2], [2, 4, 2], [2, 2, 4]]  # det = 64 + 8 + 8 - 16 - 16 - 16 = 32
    assert proxies.naswot(net, PICTURES[[0, 1, 3]]) == pytest.approx(np.log(32))
    assert proxies.naswot(net, PICTURES) == -np.inf


class Tiny(nn.Module):
    """A convolution and what is behind it, up to a pooling."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1, bias=False)
        self.rest = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pool(self.rest(self.conv(x)))
        return y


def drawn_zen(*, norm: bool) -> float:
    """Zen of Tiny with numpy, from the same draws."""
    scores = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        for _ in range(proxies.REPEATS):
            w = torch.empty(5, 3, 1, 1).normal_().double().numpy()[:, :, 0, 0]
            n = proxies.ZEN_PICTURES
            x, e = (torch.randn(n, 3, 4, 4).double().numpy() for _ in range(2))
            a, b = (np.einsum("oc,nchw->nohw", w, p) for p in (x, x + 0.01 * e))
            shift = 0.0
            if norm:
                variance = a.var((0, 2, 3), keepdims=True)
                shift = np.log(np.sqrt(variance.mean() + 1e-5))
                a, b = (
                    (m - m.mean((0, 2, 3), keepdims=True))
                    / np.sqrt(m.var((0, 2, 3), keepdims=True) + 1e-5)
                    for m in (a, b)
                )
            lengths = np.sqrt(((a - b) ** 2).sum(axis=(1, 2, 3)))
            scores.append(np.log(lengths.mean()) + shift)
    return float(np.mean(scores))


@pytest.mark.parametrize("norm", [False, True])
def test_zen_is_the_log_of_what_noise_changes(norm: bool) -> None:
    net = Tiny(*([nn.BatchNorm2d(5)] if norm else []))
    assert proxies.zen(net, (3, 4, 4), seed=7) == pytest.approx(drawn_zen(norm=norm), abs=1e-3)


def test_zen_knows_nothing_of_shortcuts() -> None:
    body = nn.Conv2d(5, 5, 1, bias=False)
    bare = Tiny(nn.Sequential(body, nn.ReLU()))
    residual = Tiny(ShortcutBlock(body, nn.Identity(), in_chs=5, act="relu"))
    shape = (3, 4, 4)
    assert proxies.zen(residual, shape) == pytest.approx(proxies.zen(bare, shape))


Score = Callable[[nn.Module, Subject], float]
ON_MODELS: dict[str, Score] = {
    "naswot": lambda model, s: proxies.naswot(model, s.images),
    "synflow": lambda model, s: proxies.synflow(model, s.shape),
    "zen": lambda model, s: proxies.zen(model, s.shape),
    "snip": lambda model, s: proxies.snip(model, s.batch),
    "grad_norm": lambda model, s: proxies.grad_norm(model, s.batch),
    "zico": lambda model, s: proxies.zico(model, s.halves),
}


@pytest.mark.parametrize("name", SCORES)
def test_proxies_leave_the_network_as_it_was(name: str) -> None:
    subject = Subject(SMALL, SETTING)
    model = subject.model.eval()
    before, modules = deepcopy(model.state_dict()), [*model.modules()]
    rng = torch.get_rng_state()
    assert ON_MODELS[name](model, subject) == ON_MODELS[name](model, subject)
    assert torch.equal(torch.get_rng_state(), rng)
    assert [*model.modules()] == modules
    assert not any(part.training for part in modules)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in modules)
    assert all(p.grad is None for p in model.parameters())
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])


def check_scores(arch: Architecture) -> None:
    for name in SCORES:
        found = estimate(name, arch, SETTING)
        assert not found.reason
        assert found.value is not None
        assert found.cpu_seconds > 0


@pytest.mark.parametrize("name", SMALLS)
def test_proxies_score_networks_of_every_kind(name: str) -> None:
    check_scores(SMALLS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lam", "mobilenet_v2", "resnet18_lgam"])
def test_proxies_score_baselines(name: str) -> None:
    check_scores(BASELINES[name].architecture.at_resolution(8))


# What needs to be prepared is in test_supernet.
ALONE = [name for name, row in ESTIMATORS.items() if not prepared_for(name)]


@pytest.mark.parametrize("name", [name for name in ALONE if name not in ("macs", "params")])
def test_estimate_hangs_on_the_seed_alone(name: str) -> None:
    once, again = (estimate(name, SMALL, SETTING) for _ in range(2))
    assert once.value == again.value
    assert once.value is not None


def test_estimate_of_a_size_is_what_is_counted() -> None:
    cost = count_cost(SETTING.build(SMALL), 8)
    assert estimate("macs", SMALL, SETTING).value == cost.macs
    assert estimate("params", SMALL, SETTING).value == cost.params


def test_estimate_of_random_is_another_by_seed() -> None:
    values = [estimate("random", SMALL, replace(SETTING, seed=s)).value for s in range(3)]
    assert len(set(values)) == 3
    assert all(value is not None and 0 <= value < 1 for value in values)


def test_full_is_the_accuracy_of_an_evaluation() -> None:
    found, whole = estimate("full", SMALL, SETTING), evaluate(SMALL, SETTING)
    assert found.value == whole.values["top1"]
    assert [(e.loss, e.top1) for e in found.curve] == [(e.loss, e.top1) for e in whole.curve]


def test_shortened_trainings_end_their_schedule() -> None:
    short = RECIPE.model_copy(update={"epochs": 2})
    curve = evaluate(SMALL, replace(SETTING, recipe=short)).curve
    assert estimate("epochs:2", SMALL, SETTING).value == curve[-1].top1
    assert estimate("loss_at:2", SMALL, SETTING).value == -curve[-1].loss
    assert len(estimate("epochs", SMALL, SETTING).curve) == 1


def test_loss_at_steps_trains_on_so_many_batches() -> None:
    few = RECIPE.model_copy(update={"epochs": 1, "train_size": 12})
    (epoch,) = evaluate(SMALL, replace(SETTING, recipe=few)).curve
    assert estimate("loss_at:3steps", SMALL, SETTING).value == -epoch.loss
    assert epoch.end_loss is not None
    assert estimate("end_loss:3steps", SMALL, SETTING).value == -epoch.end_loss


def test_loss_at_judges_by_a_picture_a_class() -> None:
    few = replace(SETTING.data, val_search=subset(SETTING.data.val_search, len(DATA.classes)))
    (epoch,) = estimate("loss_at:1", SMALL, SETTING).curve
    (spared,) = estimate("epochs:1", SMALL, replace(SETTING, data=few)).curve
    assert (epoch.loss, epoch.top1) == (spared.loss, spared.top1)


def test_length_beyond_an_epoch_is_refused() -> None:
    assert Length(4, "steps").of(SETTING).train_size == 16  # all there are
    with pytest.raises(StudyError, match="5steps: must be 1 to 4 at batches of 4, 2 classes"):
        Length(5, "steps").of(SETTING)


def test_length_of_steps_shows_a_picture_of_each_class() -> None:
    single = replace(SETTING, recipe=RECIPE.model_copy(update={"batch_size": 1}))
    assert Length(2, "steps").of(single).train_size == 2
    with pytest.raises(StudyError, match="1steps: must be 2 to 16 at batches of 1, 2 classes"):
        Length(1, "steps").of(single)
    large = replace(SETTING, recipe=RECIPE.model_copy(update={"batch_size": 100}))
    assert Length(1, "steps").of(large).train_size == 16  # all there are are a batch


@pytest.mark.parametrize("length", [Length(2), Length(2, "steps")])
def test_a_shortened_training_begins_with_all_weights(length: Length) -> None:
    thawed = replace(SETTING, recipe=RECIPE.model_copy(update={"head_epochs": 2, "thaw_epochs": 1}))
    assert length.of(thawed) == length.of(SETTING)
    assert Length(1, "recipes").of(thawed) == thawed.recipe


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nazwot", "unknown estimator 'nazwot'; did you mean 'naswot'"),
        ("naswot:2", "takes no option, is '2'"),
        ("epochs:0", "must be epochs:EPOCHS or epochs:Nsteps, is '0'"),
        ("loss_at:", "is ''"),
        ("loss_at:2.5", "is '2.5'"),
    ],
)
def test_get_estimator_says_what_is_allowed(name: str, message: str) -> None:
    with pytest.raises((StudyError, UnknownNameError), match=message):
        get_estimator(name)


def test_parts_of_a_combination_differ() -> None:
    assert parts_of("loss_at:1+naswot+macs") == ("loss_at:1", "naswot", "macs")
    with pytest.raises(StudyError, match="twice"):
        parts_of("macs+macs")


def test_evaluate_asks_the_estimators_before_it_trains() -> None:
    said: list[dict[str, float]] = []

    def stops(curve: Sequence[Epoch], known: Mapping[str, float]) -> bool:
        said.append(dict(known))
        return True

    rows = (get_objective("top1"), get_objective("macs"))
    setting = replace(SETTING, objectives=rows)
    estimates = combination("loss_at:2steps+naswot+macs", setting)
    found = evaluate(SMALL, replace(setting, estimates=estimates), stops=stops)
    assert (found.state, found.curve) == ("stopped", ())
    assert found.estimates == {
        name: estimate(name, SMALL, setting).value for name in ("loss_at:2steps", "naswot", "macs")
    }
    assert found.estimate_seconds.keys() == found.estimates.keys()
    assert found.estimate_seconds["loss_at:2steps"] > 0
    assert said == [{**found.values, **found.estimates}]  # asked once: not by the short training


def test_evaluate_trains_alike_whether_it_was_estimated_or_not() -> None:
    estimates = combination("loss_at:2steps+zen", SETTING)
    found = evaluate(SMALL, replace(SETTING, estimates=estimates))
    plain = evaluate(SMALL, SETTING)
    assert [(e.loss, e.top1) for e in found.curve] == [(e.loss, e.top1) for e in plain.curve]
    assert found.values == plain.values


def test_an_estimate_that_fails_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(ESTIMATORS["random"], measure=lambda subject: float("nan"))
    monkeypatch.setitem(ESTIMATORS, "random", broken)
    estimates = combination("random+macs", SETTING)
    found = evaluate(SMALL, replace(SETTING, estimates=estimates))
    assert found.state == "complete"
    assert found.estimates.keys() == {"macs"}
    assert found.estimate_seconds.keys() == {"random", "macs"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("full", "'full': must be shorter than the training itself, of 3 epochs"),
        ("macs+epochs:3", "'epochs:3': must be shorter than the training itself"),
        ("loss_at:5steps", "estimator for 5steps: must be 1 to 4 at batches of 4"),
        ("supernet+macs", "'supernet': needs weights that a whole space shares"),
    ],
)
def test_an_estimate_is_shorter_than_what_it_foretells(name: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        combination(name, SETTING)
    assert combination("epochs:2+loss_at:4steps", SETTING).parts == ("epochs:2", "loss_at:4steps")


@pytest.mark.parametrize(("name", "n_turns"), [("naswot", 1), ("full", 3), ("epochs:2", 2)])
def test_estimates_take_turns_with_measurements(
    monkeypatch: pytest.MonkeyPatch, name: str, n_turns: int
) -> None:
    taken = []

    @contextmanager
    def training(self: Turns) -> Iterator[None]:
        taken.append("begun")
        yield
        taken.append("over")

    monkeypatch.setattr(Turns, "training", training)
    assert estimate(name, SMALL, SETTING).value is not None
    assert taken == ["begun", "over"] * n_turns  # none within another


def test_measure_keeps_the_reason_of_a_failure() -> None:
    def fail(subject: Subject) -> float:
        raise RuntimeError("shapes\nand more")

    row = replace(ESTIMATORS["random"], measure=fail)
    found = measure(row, Subject(SMALL, SETTING))
    assert (found.value, found.reason, found.transient) == (None, "shapes", False)
    row = replace(ESTIMATORS["random"], measure=lambda subject: float("-inf"))
    assert measure(row, Subject(SMALL, SETTING)).reason == "random is -inf"


def test_measure_counts_what_another_process_trained() -> None:
    def resumed(subject: Subject) -> float:
        subject.curve += [Epoch(1, 0.5, 0.5, 1000.0), Epoch(2, 0.5, 0.5, 1000.0)]
        sum(range(200_000))
        return 0.5

    row = replace(ESTIMATORS["random"], measure=resumed)
    found = measure(row, Subject(SMALL, SETTING))
    assert found.seconds == pytest.approx(2000)
    assert found.cpu_seconds > 100  # at the pace of what was done here, beside others


def test_ledger_gives_back_what_was_added(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    found = Estimate(0.5, 2.0, 3.0, curve=(Epoch(1, 0.25, 0.5, 1.5),))
    bad = Estimate(None, 0.0, 0.0, "out of memory")
    ledger = Ledger(path)
    ledger.add(Task("full", 0, "0123456789ab"), found)
    ledger.add(Task("full", 1, "0123456789ab"), bad)
    with path.open("a") as file:
        file.write('{"estimator": "full", "se')  # and the process is killed
    again = Ledger(path)
    assert (
        again.rows
        == ledger.rows
        == {
            Task("full", 0, "0123456789ab"): found,
            Task("full", 1, "0123456789ab"): bad,
        }
    )
    again.add(Task("full", 2, "0123456789ab"), found)
    assert len(Ledger(path).rows) == 3


@pytest.mark.parametrize("line", ["nonsense", "{}", "[1]", '{"estimator": "a", "seed": 0}'])
def test_ledger_names_the_line_that_is_none(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(StudyError, match=r"rows.jsonl, line 1: is no estimate"):
        Ledger(path)


def test_kendall_counts_pairs() -> None:
    # Pairs of (1, 2, 3, 4) and (1, 3, 2, 4): five concordant, one discordant.
    assert kendall(floats(1, 2, 3, 4), floats(1, 3, 2, 4)) == pytest.approx(4 / 6)
    # One pair tied in x: 5 pairs untied there, 6 in y; 5 concordant.
    assert kendall(floats(1, 2, 2, 4), floats(1, 2, 3, 4)) == pytest.approx(5 / np.sqrt(5 * 6))
    assert np.isnan(kendall(floats(1, 1, 1), floats(1, 2, 3)))


def test_taus_under_weights_are_those_of_repeated_networks() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (2, 12)).astype(float)
    weights = draws(12, n_boot=5)
    found = taus(signs(x), signs(y), weights)
    for row, tau in zip(weights, found, strict=True):
        chosen = np.repeat(np.arange(12), row.astype(int))
        assert tau == pytest.approx(kendalltau(x[chosen], y[chosen]).statistic)


def test_partial_tau_is_kendalls_formula() -> None:
    # (0.6 - 0.5 * 0.4) / sqrt(0.75 * 0.84)
    assert partial_tau(0.6, 0.5, 0.4) == pytest.approx(0.4 / np.sqrt(0.63))
    assert partial_tau(0.3, 0.0, 0.4) == pytest.approx(0.3 / np.sqrt(0.84))
    assert np.isnan(partial_tau(0.5, 1.0, 0.5))


def test_ranks_share_ties_and_put_failures_last() -> None:
    assert ranks(floats(5, -np.inf, 7, 5)).tolist() == [1.5, 0, 3, 1.5]


def test_combined_is_the_mean_of_ranks() -> None:
    found = combined([floats(1, 2, 3), floats(10, 30, 20)])
    assert found.tolist() == [0, 1.5, 1.5]


def test_regret_is_what_the_tenth_leaves_out() -> None:
    assert [n_top(n) for n in (3, 10, 60, 200)] == [3, 5, 6, 20]
    truth = np.arange(60) / 100
    # The six said to be best hold 0.50 to 0.55; the best of all is 0.59.
    said = np.where((truth > 0.495) & (truth < 0.555), 1.0, 0.0)
    assert regret(said, truth) == pytest.approx(0.04)
    assert regret(truth, truth) == 0


def test_regret_is_the_mean_over_ties() -> None:
    truth = floats(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    # Five of six equal ones: all but one in six times the best is among them, else 0.5 is.
    assert regret(np.zeros(6), truth) == pytest.approx(0.1 / 6)


def test_quality_of_the_truth_itself_is_perfect() -> None:
    rng = np.random.default_rng(1)
    truth, macs = rng.random(40), rng.random(40)
    found = quality(truth, truth, macs)
    assert (found.tau, found.low, found.high, found.partial) == (1, 1, 1, 1)
    assert (found.top, found.regret) == (1, 0)
    size = quality(macs, truth, macs)
    assert size.partial is None
    assert size.tau == pytest.approx(kendalltau(macs, truth).statistic)
    constant = quality(np.ones(40), truth, macs)
    assert (constant.tau, constant.low, constant.partial, constant.top) == (None,) * 4


def test_quality_covers_the_tau_of_the_population() -> None:
    # Of a bivariate normal with correlation r, tau is 2 / pi arcsin(r): 1 / 3 for r = 0.5.
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(40):
        x = rng.standard_normal(60)
        y = 0.5 * x + np.sqrt(0.75) * rng.standard_normal(60)
        found = quality(x, y, rng.standard_normal(60))
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 1 / 3 <= found.high
    assert covered >= 33  # of 40 with 95 % each: fewer once in a hundred thousand


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_ceiling_is_what_perfect_knowledge_reaches(noise: float) -> None:
    rng = np.random.default_rng(2)
    expected = rng.standard_normal(400)
    truth = expected[:, None] + noise * rng.standard_normal((400, 3))
    found = ceiling(truth)
    assert found.known == pytest.approx(kendall(expected, truth.mean(axis=1)), abs=0.03)
    again = [kendall(truth[:, 0], truth[:, 1:].mean(axis=1))]
    again += [kendall(truth[:, 1], truth[:, ::2].mean(axis=1))]
    again += [kendall(truth[:, 2], truth[:, :2].mean(axis=1))]
    assert found.again == pytest.approx(np.mean(again))
    assert found.known is not None
    assert found.known_low is not None
    assert found.known_high is not None
    assert found.known_low < found.known < found.known_high
    assert found.again is not None
    assert found.again < found.known


def test_ceiling_of_two_equal_seeds_is_one() -> None:
    truth = np.repeat(np.arange(10.0)[:, None], 2, axis=1)
    assert ceiling(truth).known == pytest.approx(1)
    assert ceiling(truth).again == 1
