import re
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nasattn.arch import Architecture, parse_architecture
from nasattn.attention import ATTENTIONS
from nasattn.baselines import BASELINES
from nasattn.errors import ArchitectureError, SpaceError, UnknownNameError
from nasattn.library import shipped
from nasattn.paths import replace_paths
from nasattn.space import SearchSpace, SpaceOutline, load_outline, load_space
from nasattn.testing import space_contract
from tests.sweep import sweep

SPACES = {name: load_space(name) for name in shipped("search_spaces")}

SMALL: dict[str, Any] = {
    "name": "small",
    "template": {
        "stem": {"width": 8},
        "stages": [{"depth": 1, "width": 8}, {"depth": 2, "width": 16, "stride": 2}],
    },
    "parameters": {
        "stages.attention.kind": ["none", "se", "lgam"],
        "stages.attention.groups": [1, 2, 4],
        "stages.*.kernel": [3, 5],
        "stages.1.depth": {"type": "int", "low": 0, "high": 3},
        "head.pooling": ["avg", "gem"],
        "head.gem_learnable": [False, True],
        "head.gem_p": {"type": "float", "low": 1, "high": 8},
    },
}


def small(**changes: Any) -> SearchSpace:
    return SearchSpace.model_validate(SMALL | changes)


@pytest.mark.parametrize("name", sweep(SPACES, ["mobile"]))
def test_every_shipped_space_holds_to_the_contract(name: str) -> None:
    space_contract(SPACES[name])


@pytest.mark.parametrize("name", SPACES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_decode_of_encode_is_the_same_network(name: str, seed: int) -> None:
    space = SPACES[name]
    arch = space.decode(space.sample(Random(seed)))
    assert space.decode(space.encode(arch)) == arch


def test_mobile_offers_the_light_attention_kinds() -> None:
    kinds = next(p for p in SPACES["mobile"].free if p.name == "stages.0.attention.kind")
    light = {"se", "eca", "lsa", "lam", "cbam", "sge", "lgam"}
    assert set(kinds.distribution.values()) == {"none", *light} <= {"none", *ATTENTIONS}


def test_parameters_exist_only_where_they_mean_something() -> None:
    params = {
        "stages.0.attention.kind": "se",
        "stages.1.attention.kind": "lgam",
        "stages.1.attention.groups": 2,
        "stages.*.kernel": 5,
        "stages.1.depth": 2,
        "head.pooling": "gem",
        "head.gem_learnable": True,
    }
    arch = small().decode(params)
    assert small().encode(arch) == params
    assert [s.attention.options.get("groups") for s in arch.stages] == [None, 2]
    assert [s.kernel for s in arch.stages] == [5, 5]


def test_depth_zero_leaves_the_last_stage_out_with_its_parameters() -> None:
    params = {
        "stages.0.attention.kind": "none",
        "stages.1.depth": 0,
        "stages.*.kernel": 3,
        "head.pooling": "avg",
    }
    arch = small().decode(params)
    assert len(arch.stages) == 1
    assert small().encode(arch) == params


def test_parameters_that_mean_nothing_are_not_looked_at() -> None:
    params = {
        "stages.0.attention.kind": "none",
        "stages.0.attention.groups": 4,
        "stages.1.depth": 0,
        "stages.*.kernel": 3,
        "head.pooling": "avg",
        "head.gem_p": 5,
    }
    assert "stages.0.attention.groups" not in small().encode(small().decode(params))


@given(st.sampled_from(sorted(SPACES)), st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_settle_of_any_values_is_what_decode_looks_at(name: str, seed: int) -> None:
    space, rng = SPACES[name], Random(seed)
    params = space.sample(rng)
    idle = {p.name: rng.choice(p.distribution.values()) for p in space.free}
    assert list(space.settle(idle | params).items()) == list(params.items())


def test_the_more_exact_path_wins() -> None:
    space = small(parameters={"stages.kernel": [3, 5], "stages.1.kernel": [7]})
    assert [(p.name, p.distribution.values()) for p in space.free] == [
        ("stages.0.kernel", (3, 5)),
        ("stages.1.kernel", (7,)),
    ]


def test_suggest_asks_optuna_for_the_same_names() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    params = small().suggest(trial)
    assert trial.params == params
    assert small().decode(trial.params) == small().decode(params)


def test_an_enqueued_baseline_comes_back_as_itself() -> None:
    space = SPACES["mobile"]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(space.encode(BASELINES["lam"].architecture))
    assert space.decode(space.suggest(study.ask())) == BASELINES["lam"].architecture


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"stages.9.kernel": 3}, r"no parameter 'stages.9.kernel'"),
        ({}, r"parameter 'stages.1.depth' is missing"),
        ({"stages.1.depth": 9}, r"stages.1.depth = 9, allowed: 0 to 3"),
        ({"stages.1.depth": 1, "stages.*.kernel": 4}, r"kernel = 4, allowed: \[3, 5\]"),
    ],
)
def test_decode_refuses_what_is_outside(params: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        small().decode(params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stages.0.width": 24},
            r"lam is outside space 'small': stages.0.width = 24, here always 8",
        ),
        ({"stages.0.kernel": 7}, r"kernel = 7, allowed: \[3, 5\]"),
        ({"stages.0.kernel": 5}, r"stages.1.kernel = 3, here always 5"),
        ({"stages.1.depth": 4}, r"stages.1.depth = 4, allowed: 0 to 3"),
        ({"stages.1.attention.kind": "cbam"}, r"kind = 'cbam', allowed"),
    ],
)
def test_encode_says_what_lies_outside(changes: dict[str, Any], message: str) -> None:
    inside = small().template
    with pytest.raises(SpaceError, match=message):
        small().encode(replace_paths(inside, changes), "lam")


@pytest.mark.parametrize("ratios", [[4, 32], [2, 32], [32, 4]])
@pytest.mark.parametrize("path", ["stages.attention.rd_ratio", "stages.*.attention.rd_ratio"])
def test_encode_finds_options_that_make_no_difference(path: str, ratios: list[int]) -> None:
    # Behind 8 and 16 channels a ratio of 32 is one of 16, the default, which is not offered.
    space = small(parameters={"stages.attention.kind": ["none", "se", "lgam"], path: ratios})
    space_contract(space)
    kinds = {f"stages.{i}.attention.kind": "se" for i in (0, 1)}
    names = [p.name for p in space.free if p.name.endswith("rd_ratio")]
    arch = space.decode(kinds | dict.fromkeys(names, 32))
    assert [stage.attention.options["rd_ratio"] for stage in arch.stages] == [16, 16]
    assert space.encode(arch) == kinds | dict.fromkeys(names, 32)


def test_load_outline_has_what_the_space_has() -> None:
    for name, space in SPACES.items():
        outline = load_outline(name)
        assert type(outline) is SpaceOutline
        assert outline.free == space.free
        assert outline.model_dump() == space.model_dump()


def test_load_outline_does_not_look_for_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"parameters": {"head.gem_p": [1, 2]}}))
    assert len(load_outline(str(path)).free) == 1
    with pytest.raises(SpaceError, match="means nothing"):
        load_space(str(path))


def test_encode_refuses_more_stages_than_the_space_has() -> None:
    tree = small().template.model_dump()
    tree["stages"] = [*tree["stages"], {"depth": 1, "width": 16}]
    with pytest.raises(SpaceError, match="stages = 3 of them, here always 2"):
        small().encode(parse_architecture(tree))


def test_named_template_and_readme_space_are_valid(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    text = next(block for block in blocks if block.startswith("template:"))
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    space = load_space(str(tmp_path / "mine.yaml"))
    assert space.name == "mine"
    assert space.template == BASELINES["mobilenet_v2"].architecture


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paramters": {}}, r"unknown field 'paramters'; did you mean 'parameters'"),
        ({"parameters": {}}, r"parameters: .*at least 1 item"),
        ({"template": "lamb"}, r"unknown network 'lamb'; did you mean 'lam'"),
        ({"template": {"stem": {"width": 8}}}, r"field 'template.stages' is missing"),
        ({"constraints": ["mac<=3"]}, r"constraints: unknown objective 'mac'; did you mean 'macs'"),
        ({"baselines": ["lam"]}, r"lam is outside space 'mine'"),
        ({"parameters": {"stages.kernal": [3]}}, r"'kernal' is unknown; did you mean 'kernel'"),
        ({"parameters": {"stages.5.kernel": [3]}}, r"there are 2 stages, 0 to 1"),
        ({"parameters": {"stages.kernel": [3, 4]}}, r"kernel: must be 3, 5 or 7, is 4"),
        ({"parameters": {"stages.kernel": [3, 3]}}, r"names a value twice"),
        ({"parameters": {"stages.kernel": []}}, r"at least 1 item"),
        ({"parameters": {"stages.width": {"type": "int", "low": 8}}}, r"high' is missing"),
        (
            {"parameters": {"stages.width": {"type": "int", "low": 8, "high": 4}}},
            r"low 8 must reach high 4",
        ),
        ({"parameters": {"stages.width": {"type": "integer", "low": 8}}}, r"'int'.*'float'"),
        (
            {"parameters": {"stages.kernel": [3], "stages.*.kernel": [5]}},
            r"both set 'stages.0.kernel'",
        ),
        ({"parameters": {"stages.0.depth": [0, 1]}}, r"only the last stage may have depth 0"),
        (
            {"parameters": {"stages.attention.kind": ["sge"], "stages.attention.groups": [0]}},
            r"groups: must be greater than 0, is 0",
        ),
        ({"parameters": {"stages.*.depth": [10**9]}}, r"depth: must be less than or equal to 200"),
        (
            {"parameters": {"stages.*.width": {"type": "int", "low": 8, "high": 2**63}}},
            r"high: must be",
        ),
        (
            {"parameters": {"head.gem_p": {"type": "float", "low": 1, "high": 8, "step": 1e-300}}},
            r"at most a million",
        ),
        ({"parameters": {"head.gem_p": [1, 2]}}, r"head.gem_p: means nothing"),
        (
            {"parameters": {"stages.attention.kind": ["lgam"], "stages.attention.groups": [3]}},
            r"no network of .* can be built: .*groups: 3 does not divide the 8 channels before add",
        ),
    ],
)
def test_a_wrong_space_file_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"name": "mine"} | changes), encoding="utf-8")
    with pytest.raises(SpaceError, match=message) as error:
        load_space(str(path))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a list", "must be a mapping of fields, is list"),
        ("name: [", "not valid YAML"),
        ("name: a\nname: b", r"mine.yaml:2: not valid YAML \(key 'name' is given twice\)"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
        ("name: \xff", "valid YAML|cannot be read|missing"),
        ("description: 2020-13-45", "not valid YAML .ValueError: .month must be"),
        ("? [1]\n: 2", "not valid YAML"),
        ("name: !!int x", "not valid YAML"),
        ("name: " + "[" * 3000, "not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SpaceError, match=message):
        load_space(str(path))


def test_an_alias_bomb_is_cut_short(tmp_path: Path) -> None:
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 12))
    (tmp_path / "bomb.yaml").write_text("l0: &l0 [x]\n" + levels + "description: *l11\n")
    with pytest.raises(SpaceError, match=r"unknown field|description") as error:
        load_space(str(tmp_path / "bomb.yaml"))
    assert len(str(error.value)) < 1000


def test_an_unknown_space_names_the_known_ones() -> None:
    with pytest.raises(
        UnknownNameError, match="unknown search space 'mobil'; did you mean 'mobile'"
    ):
        load_space("mobil")


def test_a_space_may_hold_choices_that_do_not_go_together() -> None:
    # 8 groups divide the 8 channels before the add, not the 8 * 1.5 = 12 hidden ones
    parameters = {
        "stages.attention.kind": ["none", "sge"],
        "stages.attention.placement": ["before_add", "after_spatial"],
        "stages.attention.groups": [1, 8],
        "stages.expansion": [1, 1.5],
    }
    space = small(parameters=parameters)
    space_contract(space)
    bad = dict.fromkeys(["stages.0.attention.kind"], "sge") | {
        "stages.0.attention.placement": "after_spatial",
        "stages.0.attention.groups": 8,
        "stages.0.expansion": 1.5,
        "stages.1.attention.kind": "none",
        "stages.1.expansion": 1,
    }
    with pytest.raises(ArchitectureError, match="groups: 8 does not divide the 12 channels"):
        space.decode(bad)
    idle = {"stages.1.attention.placement": "before_add", "stages.1.attention.groups": 1}
    assert space.settle(idle | bad) == bad


def family_networks() -> list[tuple[str, str]]:
    """(space, network) for every network that is a family's own."""
    return [(row.family, name) for name, row in BASELINES.items()]


@pytest.mark.parametrize(("space", "name"), family_networks())
def test_every_paper_network_encodes_into_the_space_of_its_family(space: str, name: str) -> None:
    arch = BASELINES[name].architecture
    params = SPACES[space].encode(arch, name)
    assert SPACES[space].decode(params) == arch
    assert SPACES[space].decode(params).arch_id == arch.arch_id


def test_a_group_count_that_the_network_cannot_take_is_an_architecture_error() -> None:
    with pytest.raises(ArchitectureError, match="16 does not divide the 24"):
        replace_paths(
            BASELINES["mobilenet_v2"].architecture,
            {"stages.1.attention.kind": "sge", "stages.1.attention.groups": 16},
        )


def test_spaces_and_baselines_do_not_need_torch() -> None:
    import subprocess
    import sys

    code = "import nasattn.space, nasattn.baselines, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_space_is_an_architecture_factory_of_its_own_kind() -> None:
    assert isinstance(small().decode(small().sample(Random(1))), Architecture)
