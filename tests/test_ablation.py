"""Ablations: parts and arms of a network, paired runs, going on after a stop."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from nasattn.ablation.arms import (
    BASE,
    PLAIN,
    Design,
    add_one_in,
    build_design,
    factorial,
    ladder,
    leave_one_out,
)
from nasattn.ablation.capacity import widen_to
from nasattn.ablation.parts import PartSpec, parts_of, without
from nasattn.ablation.plan import make_plan, time_run
from nasattn.ablation.power import detectable_effect
from nasattn.ablation.run import Run, done_runs, finished_trials, plan_runs, run_ablation, run_of
from nasattn.ablation.spec import AblationSpec, load_ablation
from nasattn.arch import Architecture
from nasattn.baselines import BASELINES, get_baseline
from nasattn.baselines.mobile import LAM_LADDER
from nasattn.cost import count_cost
from nasattn.errors import AblationError, ArchitectureError, NasattnError, UnknownNameError
from nasattn.evaluate import Evaluation, Setting
from nasattn.initial import layers
from nasattn.model import build_model
from nasattn.objectives import get_objective
from nasattn.paths import replace_paths
from nasattn.search.storage import open_study
from nasattn.testing import tiny_data
from nasattn.train.loop import Epoch
from nasattn.train.recipe import Recipe

LAM = BASELINES["lam"].architecture
LADDER_ORDER = ("eca", "lsa", "aff", "fused_term")


def read(name: str) -> Architecture:
    return get_baseline(name).architecture


def lam_spec(**changes: Any) -> AblationSpec:
    return load_ablation("lam", None, changes)


# Parts


def test_parts_of_lam_are_its_attentions_and_switches() -> None:
    parts = parts_of(LAM)
    assert list(parts) == ["eca", "lsa", "aff", "aff_third_term", "hidden"]
    assert parts["aff_third_term"].needs == ("aff",)
    kinds = {stage.attention.kind for stage in without(LAM, [parts["eca"]]).stages}
    assert kinds == {"lsa"}
    kinds = {stage.attention.kind for stage in without(LAM, [parts["eca"], parts["lsa"]]).stages}
    assert kinds == {"none"}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mobilenet_v2", ["dropout"]),
        ("resnet18", []),
        ("resnet18_cbam_cifar", ["cbam"]),
        ("skresnext50_32x4d", ["sk"]),
        ("resneskt50", ["ska", "splat"]),
        ("alexnet_se", ["se", "hidden", "dropout"]),
    ],
)
def test_parts_of_the_papers_networks(name: str, parts: list[str]) -> None:
    assert list(parts_of(BASELINES[name].architecture)) == parts


def test_parts_see_the_newer_switches() -> None:
    arch = replace_paths(
        BASELINES["resnet18_se"].architecture,
        {
            "progressive": True,
            "stages.0.run_share": 0.5,
            "head.pooling": "gem",
            "fusion.kind": "multi_scale",
        },
    )
    parts = parts_of(arch)
    assert list(parts) == ["se", "progressive", "run_share", "multi_scale", "gem"]
    assert parts["progressive"].needs == ("se",)  # it says nothing without attention


def test_without_keeps_the_options_that_are_left() -> None:
    arch = replace_paths(LAM, {"stages.0.attention.kernel": 5, "stages.0.attention.dense": True})
    left = without(arch, [PartSpec(without={"stages.*.attention.kind": "-eca"})])
    assert left.stages[0].attention.options == {"kernel": 5}
    left = without(arch, [PartSpec(without={"stages.*.attention.kind": "-lsa"})])
    assert left.stages[0].attention.options == {"dense": True}


# Arms


def test_the_study_of_lam_is_table_3() -> None:
    design = build_design(LAM, lam_spec().parts, "lam")
    ladder(design, LADDER_ORDER)
    by_hand = [LAM_LADDER[row] for row in ("base", "+eca", "+lsa", "+aff", "full")]
    genuine = [replace_paths(a, {"head.hidden": 1152}) for a in by_hand]
    genuine = [
        replace_paths(a, {f"stages.{i}.attention.dense": False for i in range(6)})
        if a.stages[0].attention.kind in ("eca", "lam")
        else a
        for a in genuine
    ]
    rungs = [PLAIN, "+eca", "+eca+lsa", "+eca+lsa+aff", BASE]
    assert [design.arms[name] for name in rungs] == genuine
    assert [(c.arm, c.reference) for c in design.contrasts] == list(
        zip(rungs[1:], rungs, strict=False)
    )


def test_needs_lead_on() -> None:
    chain = {
        "a": {"without": {"stages.0.attention.kind": "none"}},
        "b": {"without": {"stages.1.attention.kind": "none"}, "needs": ["a"]},
        "c": {"without": {"stages.2.attention.kind": "none"}, "needs": ["b"]},
    }
    design = lam_spec(parts=chain).design(read)
    contrasts = [(c.arm, c.reference) for c in design.contrasts]
    assert contrasts == [(PLAIN, BASE), ("+a", BASE), ("-c", BASE), ("+a", PLAIN), ("-c", "+a")]


def test_leave_one_out_takes_out_what_hangs_on_a_part() -> None:
    design = build_design(LAM, lam_spec().parts, "lam")
    leave_one_out(design)
    assert list(design.arms) == [BASE, "-eca", "-lsa", "-aff", "-fused_term", PLAIN]
    assert design.arms["-aff"].fusion.kind == "none"
    assert {c.reference for c in design.contrasts} == {BASE}


def test_add_one_in_compares_with_what_a_part_needs() -> None:
    design = build_design(LAM, lam_spec().parts, "lam")
    add_one_in(design)
    assert [(c.arm, c.reference) for c in design.contrasts] == [
        ("+eca", PLAIN),
        ("+lsa", PLAIN),
        ("+aff", PLAIN),
        ("+aff+fused_term", "+aff"),
    ]


def test_one_part_is_one_contrast() -> None:
    spec = AblationSpec(base="resnet18_se")
    design = spec.design(read)
    assert [(c.arm, c.reference) for c in design.contrasts] == [(PLAIN, BASE)]


def test_factorial_has_every_combination_of_free_parts() -> None:
    design = build_design(LAM, lam_spec().parts, "lam")
    factorial(design)
    assert len(design.arms) == 8
    assert design.levels["+eca"] == {"eca": "on", "lsa": "off", "aff": "off"}
    assert len({arch.arch_id for arch in design.arms.values()}) == 8


SIX_PARTS = {
    name: {"without": {f"stages.{i}.attention.kind": "none"}} for i, name in enumerate("abcdef")
}


def test_a_fraction_of_a_factorial_says_what_it_mixes() -> None:
    design = lam_spec(parts=SIX_PARTS, fraction=16).design(read)
    assert len(design.arms) == 16
    assert next(iter(design.arms)) == BASE
    assert design.levels[BASE] == dict.fromkeys("abcdef", "on")
    (note,) = design.notes
    assert note.startswith("fraction: 16 of 64 combinations, resolution 4; cannot be told apart: ")
    assert "a:b = c:e" in note
    assert len(design.at_resolution(16).arms) == 16
    assert design.at_resolution(16).notes == [note]


def test_a_ladder_in_a_factorial_shares_its_arms() -> None:
    three = {name: SIX_PARTS[name] for name in "abc"}
    design = lam_spec(parts=three, factorial=True, ladder=("a", "b", "c")).design(read)
    assert len(design.arms) == 8
    ladder_of = [(c.arm, c.reference) for c in design.contrasts if c.design == "ladder"]
    assert ladder_of == [("+a", PLAIN), ("-c", "+a")]  # the last rung is in the factorial


def test_networks_stand_each_against_its_own() -> None:
    networks = {"resnet18_se_cifar": BASE, "resnet34_lgam_cifar": "resnet34_cifar"}
    spec = load_ablation("resnet18_cifar", None, {"networks": networks})
    design = spec.design(read)
    assert list(design.arms) == [BASE, *list(networks)[:1], "resnet34_cifar", *list(networks)[1:]]
    assert [(c.arm, c.reference, c.design) for c in design.contrasts] == [
        (name, reference, "networks") for name, reference in networks.items()
    ]
    assert not spec.wants_control
    arms = design.arms
    lineage = design.lineages()[arms["resnet34_lgam_cifar"].arch_id]
    assert lineage == (arms[BASE], arms["resnet34_cifar"])


@pytest.mark.parametrize(
    ("study", "n_arms", "n_contrasts"),
    [
        ("lam", 10, 9),
        ("lgam", 12, 8),
        ("resneskt", 9, 9),
        ("resneskt_depth", 3, 2),
        ("alexnet", 4, 3),
    ],
)
def test_the_papers_studies_build(study: str, n_arms: int, n_contrasts: int) -> None:
    spec = load_ablation(None, study, {})
    design = spec.design(read)
    assert spec.resolution is not None
    small = design.at_resolution(spec.resolution)
    assert (len(small.arms), len(small.contrasts)) == (n_arms, n_contrasts)


def test_a_sequential_ablation_looks_from_six_seeds_on() -> None:
    spec = lam_spec(sequential=True, seeds=11)
    looks = spec.looks(spec.design(read))
    assert looks is not None
    assert looks.looks == (6, 8, 10, 11)
    assert lam_spec().looks(tiny_design()) is None
    settings = spec.settings(tiny_design(), "id", "hash")
    assert settings["seeds"] == 11  # to add some would be another plan of looks
    assert "seeds" not in lam_spec().settings(tiny_design(), "id", "hash")


def test_swap_puts_other_kinds_where_attention_is() -> None:
    spec = AblationSpec(base="lam", swap={"attention": ("se", "lam", "cbam")})
    design = spec.design(read)
    assert list(design.arms) == [BASE, "attention.kind=se", "attention.kind=cbam"]
    assert {s.attention.kind for s in design.arms["attention.kind=se"].stages} == {"se"}
    plain = AblationSpec(base="resnet18", swap={"attention": ("se",)})
    arms = plain.design(read).arms
    assert {s.attention.kind for s in arms["attention.kind=se"].stages} == {"se"}


def test_sweep_varies_an_option_where_it_means_something() -> None:
    sweep = {"attention.groups": (1, 2, 4, 8)}
    arms = AblationSpec(base="resnet18_lgam_cifar", sweep=sweep).design(read).arms
    assert list(arms) == [BASE, "attention.groups=1", "attention.groups=2", "attention.groups=8"]


@pytest.mark.parametrize(
    ("base", "changes", "error", "message"),
    [
        ("resnet18", {}, AblationError, "resnet18: has no part to take out; --swap attention"),
        ("lam", {"sweep": {"head.gem_p": (1, 2)}}, AblationError, "head.gem_p: means nothing"),
        ("lam", {"swap": {"attention": ("sex",)}}, ArchitectureError, "unknown attention 'sex'"),
        ("lam", {"ladder": ("eca", "tea")}, UnknownNameError, "ladder: unknown part 'tea'"),
        ("lam", {"ladder": ("fused_term", "aff")}, AblationError, "'fused_term' needs 'aff'"),
        (
            "lam",
            {"parts": {"gem": {"without": {"head.pooling": "avg"}}}},
            AblationError,
            "part 'gem': lam does not have it",
        ),
        (
            "lam",
            {"parts": {"a": {"without": {"fusion.kind": "none"}, "needs": ["b"]}}},
            UnknownNameError,
            "unknown part 'b'",
        ),
        (
            "lam",
            {
                "parts": {
                    "aff": {"without": {"fusion.kind": "none"}},
                    "too": {"without": {"fusion.kind": "none"}},
                }
            },
            AblationError,
            "arms '-aff' and .* are the same network|same network",
        ),
        ("lam", {"parts": {"x": {"without": {"stages.9.width": 8}}}}, NasattnError, "no field"),
        (
            "lam",
            {"parts": {"a+b": {"without": {"fusion.kind": "none"}}}},
            AblationError,
            "part 'a.b': must be printable",
        ),
        (
            "lam",
            {
                "parts": {
                    "a": {"without": {"fusion.kind": "none"}, "needs": ["b"]},
                    "b": {"without": {"stages.0.attention.kind": "none"}, "needs": ["a"]},
                }
            },
            AblationError,
            "part 'a': needs itself",
        ),
        ("lam", {"networks": {"resnet18": "alexnet", "alexnet": "resnet18"}}, AblationError, "cir"),
        ("lam", {"fraction": 16}, AblationError, "no design of 16 runs for 3 factors; known: .8."),
        ("lam", {"networks": {"lamb": "base"}}, UnknownNameError, "unknown network 'lamb'"),
        ("lam", {"networks": {"lam": "base"}}, AblationError, "'base' and 'lam' are the same"),
        (
            "lam",
            {"networks": {"alexnet": "resnet34", "resnet34": "resnet50", "resnet50": "alexnet"}},
            AblationError,
            "networks: .* are compared in a circle",
        ),
        ("lam", {"seeds": 200}, AblationError, "seeds: must be less than or equal to 100, is 200"),
        ("lam", {"seeds": 1}, AblationError, "seeds: must be greater than or equal to 2, is 1"),
        ("lam", {"sedes": 6}, AblationError, "unknown field 'sedes'; did you mean 'seeds'"),
    ],
)
def test_a_wrong_ablation_is_refused(
    base: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_ablation(base, None, changes).design(read)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 6}, "the first look is after 6 seeds, so it takes more; --seeds 12"),
        ({"seeds": 12, "factorial": True}, "not for a factorial"),
        ({"seeds": 12, "margin": 0.01}, "looks at effects alone; leave out the margin"),
    ],
)
def test_a_wrong_sequential_ablation_is_refused(changes: dict[str, Any], message: str) -> None:
    spec = lam_spec(sequential=True, **changes)
    with pytest.raises(AblationError, match=message):
        spec.looks(spec.design(read))


def test_a_search_is_no_ablation() -> None:
    with pytest.raises(AblationError, match="is a search; `nasattn search --study mobile_quick`"):
        load_ablation("lam", "mobile_quick", {})


# The control arm


@pytest.mark.slow
def test_the_control_has_the_size_of_the_base() -> None:
    parts = lam_spec().parts
    plain = without(LAM, parts.values())
    control = widen_to(plain, LAM, 16, 10)
    costs = []
    for arch in (LAM, control):
        with torch.device("meta"):
            model = build_model(arch.at_resolution(16), 10)
        costs.append(count_cost(model, 16))
    base, wide = costs
    assert wide.params == pytest.approx(base.params, rel=0.001)
    assert wide.macs == pytest.approx(base.macs, rel=0.02)
    assert {s.attention.kind for s in control.stages} == {"none"}
    assert control.fusion.kind == "none"


def test_there_is_no_control_for_parts_that_weigh_nothing() -> None:
    base = BASELINES["resnet18_sge_cifar"].architecture
    with pytest.raises(AblationError, match="is no smaller than the base"):
        widen_to(without(base, parts_of(base).values()), base, 32, 10)


# Runs

DATA = tiny_data()
RECIPE = Recipe(epochs=1, batch_size=8, lr=0.01)
TINY = replace_paths(LAM, {f"stages.{i}.depth": 1 for i in range(6)})
SETTING = Setting(DATA, RECIPE, (get_objective("top1"),))


def tiny_design() -> Design:
    design = build_design(TINY, lam_spec().parts, "tiny")
    leave_one_out(design)
    return design.at_resolution(8)


class Quiet:
    """A Watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def started(self, run: Run, done: int) -> None:
        self.runs.append(run)

    def epoch(self, epoch: Epoch) -> None: ...

    def finished(self, trial: optuna.trial.FrozenTrial, done: int) -> None: ...


def fake(arch: Architecture, seed: int, on_epoch: Callable[[Epoch], None]) -> Evaluation:
    """A made-up law: every arm its own mean, every seed its own luck."""
    value = 0.5 + int(arch.arch_id[:2], 16) / 1000 + seed / 100
    return Evaluation("complete", {"top1": value, "macs": 1.0, "params": 2.0})


def ablate(folder: Path, evaluate: Any = fake, n_seeds: int = 3) -> list[Run]:
    design, watcher = tiny_design(), Quiet()
    settings = {"arms": {name: arch.arch_id for name, arch in design.arms.items()}}
    url = f"sqlite:///{folder}/a.db"
    with open_study(url, "a", {"top1": "maximize"}, settings) as study:
        run_ablation(
            study,
            design,
            range(n_seeds),
            evaluate,
            facts={"recipe_id": "r"},
            artifacts=folder / "artifacts",
            watcher=watcher,
        )
        trials = finished_trials(study)
        assert [run_of(t) for t in trials if t.state.name != "FAIL"] == sorted(
            done_runs(study) - {run_of(t) for t in trials if t.state.name == "FAIL"},
            key=plan_runs(design, range(n_seeds)).index,
        )
    return watcher.runs


@pytest.mark.slow
def test_runs_go_seed_by_seed(tmp_path: Path) -> None:
    assert ablate(tmp_path) == plan_runs(tiny_design(), range(3))
    assert ablate(tmp_path) == []  # nothing twice
    assert ablate(tmp_path, n_seeds=4) == [Run(arm, 3) for arm in tiny_design().arms]


class Killed(BaseException):
    """As a kill -9 would end the process: no handler runs but those of the storage."""


@pytest.mark.slow
def test_a_killed_ablation_goes_on_to_the_same_table(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    ablate(tmp_path / "one")
    calls = []

    def dies(arch: Architecture, seed: int, on_epoch: Any) -> Evaluation:
        calls.append(seed)
        if len(calls) in (5, 9):
            raise Killed
        return fake(arch, seed, on_epoch)

    for _ in range(2):
        with pytest.raises(Killed):
            ablate(tmp_path / "two", dies)
    ablate(tmp_path / "two", dies)
    tables = []
    for name in ("one", "two"):
        study = optuna.load_study(study_name="a", storage=f"sqlite:///{tmp_path / name}/a.db")
        tables.append({run_of(t): t.values for t in finished_trials(study)})
    assert tables[0] == tables[1]
    assert len(tables[0]) == 18


@pytest.mark.slow
def test_a_failed_run_keeps_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    def fails(arch: Architecture, seed: int, on_epoch: Any) -> Evaluation:
        if seed == 1 and arch == tiny_design().arms["-eca"]:
            return Evaluation("failed", reason="out of memory")
        return fake(arch, seed, on_epoch)

    ablate(tmp_path, fails)
    study = optuna.load_study(study_name="a", storage=f"sqlite:///{tmp_path}/a.db")
    failed = [t for t in finished_trials(study) if t.state.name == "FAIL"]
    assert [(run_of(t), t.user_attrs["reason"]) for t in failed] == [
        (Run("-eca", 1), "out of memory")
    ]
    assert len(finished_trials(study)) == 18


def test_only_wanted_arms_go_on(tmp_path: Path) -> None:
    design, watcher = tiny_design(), Quiet()
    with open_study(f"sqlite:///{tmp_path}/a.db", "a", {"top1": "maximize"}, {}) as study:
        run_ablation(
            study,
            design,
            range(3),
            fake,
            facts={"recipe_id": "r"},
            artifacts=tmp_path / "artifacts",
            watcher=watcher,
            wanted=lambda seed: design.arms if seed < 1 else {BASE, "-eca"} if seed < 2 else (),
        )
    assert watcher.runs == [*plan_runs(design, [0]), Run(BASE, 1), Run("-eca", 1)]


# Paired by construction


@pytest.mark.parametrize("ladder", [(), LADDER_ORDER])
def test_every_comparison_has_all_its_common_layers_alike(ladder: tuple[str, ...]) -> None:
    design = lam_spec(ladder=ladder).design(read).at_resolution(8)
    setting = replace(SETTING, lineages=design.lineages())
    built = {name: layers(setting.build(arch)) for name, arch in design.arms.items()}
    for contrast in design.contrasts:
        arm, reference = built[contrast.arm], built[contrast.reference]
        common = [k for k in arm if k in reference and arm[k].shape == reference[k].shape]
        assert [k for k in common if not torch.equal(arm[k], reference[k])] == []


def test_layers_in_common_begin_with_the_same_weights() -> None:
    design = tiny_design()
    setting = replace(SETTING, lineages=design.lineages())
    base = layers(setting.build(design.base))
    for name, arch in design.arms.items():
        own = layers(setting.build(arch))
        common = [k for k in own if k in base and own[k].shape == base[k].shape]
        assert all(torch.equal(own[k], base[k]) for k in common)
        convolutions = [k for k in own if ".body." in k[0] and "attention" not in k[0]]
        assert set(convolutions) <= set(common), name
        assert len(common) > 0.5 * len(own)


def test_parts_of_an_attention_begin_alone_as_together() -> None:
    design = build_design(LAM, lam_spec().parts, "lam")
    leave_one_out(design)
    setting = replace(SETTING, lineages=design.lineages())
    place = ".stages.Sequential0.InvertedResidual0.body.attention"
    together = layers(setting.build(LAM))
    for arm, part, n in (("-eca", "depthwise", 1), ("-lsa", "conv", 1)):
        alone = layers(setting.build(design.arms[arm]))
        found = [k for k in alone if k[0] == f"{place}.{part}"]
        assert len(found) == n
        assert all(torch.equal(alone[k], together[k]) for k in found)


def test_a_layer_begins_alike_without_the_dropout_before_it() -> None:
    base = BASELINES["mobilenet_v2"].architecture.at_resolution(8)
    bare = without(base, parts_of(base).values())
    ours = replace(SETTING, lineages={bare.arch_id: (base,)})
    before, after = ours.build(base).state_dict(), ours.build(bare).state_dict()
    assert torch.equal(before["classifier.1.weight"], after["classifier.0.weight"])


def test_a_lineage_leads_from_the_base_to_what_an_arm_is_compared_with() -> None:
    design = build_design(LAM, lam_spec().parts, "lam")
    add_one_in(design)
    lineages = design.lineages()
    arms = design.arms
    assert LAM.arch_id not in lineages
    assert lineages[arms[PLAIN].arch_id] == (LAM,)
    assert lineages[arms["+eca"].arch_id] == (LAM, arms[PLAIN])
    third = arms["+aff+fused_term"].arch_id
    assert lineages[third] == (LAM, arms[PLAIN], arms["+aff"])


# Plans


@pytest.mark.slow
def test_a_plan_counts_what_is_left() -> None:
    design = tiny_design()
    runs = plan_runs(design, range(6))
    plan = make_plan(design, runs, set(runs[:30]), SETTING, spread=0.01, measured=0.5)
    assert (plan.n_runs, plan.n_done, plan.n_seeds) == (36, 30, 6)
    (power,) = plan.powers
    assert (power.what, power.n_tests) == ("a difference", 5)
    assert (plan.spread, plan.spread_from) == (0.01, "stated")
    assert power.detectable is not None
    assert 0.02 < power.detectable < 0.06  # about 3 of sqrt(2) times the spread
    assert plan.seconds > 0
    few = make_plan(design, plan_runs(design, range(3)), set(), SETTING, None, 0.02)
    assert (few.spread_from, few.powers[0].detectable) == ("measured", None)


def test_a_plan_of_a_factorial_knows_what_its_effects_average() -> None:
    design = build_design(TINY, lam_spec().parts, "tiny")
    factorial(design)
    design = design.at_resolution(8)
    runs = plan_runs(design, range(8))
    part, pair = make_plan(design, runs, set(runs), SETTING, 0.01, None).powers
    assert (part.what, pair.what, part.n_tests) == ("a part's effect", "an interaction", 6)
    # four arms less four others: sd 2 s / sqrt(8); of an interaction twice that
    expected = detectable_effect(8, 2 * 0.01 / 8**0.5, 6, correlation=0.0)
    assert (part.detectable, pair.detectable) == (expected, 2 * (expected or 0))


def test_time_run_grows_with_epochs() -> None:
    longer = replace(SETTING, recipe=RECIPE.model_copy(update={"epochs": 1000}))
    assert time_run(TINY.at_resolution(8), longer) > time_run(TINY.at_resolution(8), SETTING)
