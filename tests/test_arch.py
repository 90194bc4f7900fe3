import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from nasattn.arch import Architecture, AttentionSpec, HeadSpec, parse_architecture
from nasattn.errors import ArchitectureError
from nasattn.model import build_model
from nasattn.paths import get_path, is_active, replace_paths
from tests.strategies import architectures

PLAIN: dict[str, Any] = {
    "stem": {"width": 16},
    "stages": [{"depth": 1, "width": 16}, {"depth": 2, "width": 24, "stride": 2, "expansion": 2}],
}


def with_attention(**fields: object) -> dict[str, Any]:
    return PLAIN | {"stages": [PLAIN["stages"][0], PLAIN["stages"][1] | {"attention": fields}]}


@given(architectures())
def test_json_round_trip_is_the_same_value(data: dict[str, Any]) -> None:
    arch = parse_architecture(data)
    again = parse_architecture(json.loads(arch.to_json()))
    assert again == arch
    assert again.arch_id == arch.arch_id


@given(architectures(), architectures())
def test_equal_if_and_only_if_same_id(a: dict[str, Any], b: dict[str, Any]) -> None:
    first, second = parse_architecture(a), parse_architecture(b)
    assert (first == second) == (first.arch_id == second.arch_id)


@given(architectures())
@settings(max_examples=20, deadline=None)  # the first one imports modules
def test_every_architecture_builds_and_runs(data: dict[str, Any]) -> None:
    model = build_model(parse_architecture(data).at_resolution(16), num_classes=3).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 3)


def test_arch_id_is_stable() -> None:
    # The id is a promise to stored studies: a change of canonical form would break them.
    assert parse_architecture(PLAIN).to_json() == (
        '{"stages":[{"depth":1,"width":16},{"depth":2,"expansion":2.0,"stride":2,"width":24}],'
        '"stem":{"width":16}}'
    )
    assert parse_architecture(PLAIN).arch_id == "6eeb1e7bf319"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (with_attention(kind="none", placement="after_stage"), PLAIN),
        (with_attention(kind="se", rd_ratio=16), with_attention(kind="se")),
        (with_attention(kind="lgam", groups="4"), with_attention(kind="lgam")),
        (PLAIN | {"head": {"pooling": "avg", "gem_p": 5, "gem_learnable": True}}, PLAIN),
        (
            PLAIN | {"head": {"pooling": "gem", "gem_learnable": True, "gem_p": 7}},
            PLAIN | {"head": {"pooling": "gem", "gem_learnable": True}},
        ),
        (PLAIN | {"fusion": {"kind": "none", "terms": 2}}, PLAIN),
        (PLAIN | {"stages": [*PLAIN["stages"], {"depth": 0, "width": 99}]}, PLAIN),
        (PLAIN | {"stem": {"width": 16.0, "stride": 2}}, PLAIN),
    ],
)
def test_inactive_and_default_fields_do_not_make_another_network(
    a: dict[str, Any], b: dict[str, Any]
) -> None:
    assert parse_architecture(a) == parse_architecture(b)
    assert parse_architecture(a).arch_id == parse_architecture(b).arch_id


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PLAIN | {"stem": {"widht": 16}}, r"unknown field 'stem.widht'; did you mean 'width'"),
        (PLAIN | {"stem": {"width": "wide"}}, r"stem.width: must be a valid integer.* is 'wide'"),
        (PLAIN | {"stem": {}}, r"field 'stem.width' is missing"),
        (PLAIN | {"stages": []}, r"at least one stage"),
        (PLAIN | {"stages": [{"depth": 0}]}, r"at least one stage"),
        (PLAIN | {"stages": [{"depth": -1, "width": 8}]}, r"stages.0.depth: must be greater"),
        (PLAIN | {"head": {"pooling": "gem", "gem_p": 9}}, r"head.gem_p: must be less.* is 9"),
        (with_attention(kindd="se"), r"unknown attention option 'kindd'; did you mean 'kind'"),
        (with_attention(kind=["se"]), r"unknown attention \['se'\]"),
        (with_attention(kind="sea"), r"unknown attention 'sea'; did you mean 'se'"),
        (with_attention(kind="se", groups=2), r"unknown field 'groups'; known: bias, rd_ratio"),
        (with_attention(kind="se", rd_ratio=0), r"rd_ratio: must be greater than 0, is 0"),
        (
            with_attention(kind="lgam", groups=5),
            r"stages.1.attention.groups: 5 does not divide .*24",
        ),
        (
            # 16 * 2 = 32 hidden channels enter stage 1, 24 * 2 = 48 later ones: 3 divides 48 only.
            with_attention(kind="sge", groups=3, placement="after_spatial"),
            r"3 does not divide the 32 channels after spatial",
        ),
        ([], r"valid dictionary"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(data: object, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message) as error:
        parse_architecture(data)
    assert "\n" not in str(error.value)


def test_replace_paths_leaves_the_options_of_the_old_kind_behind() -> None:
    arch = parse_architecture(with_attention(kind="lgam", groups=2, placement="after_stage"))
    changed = replace_paths(arch, {"stages.1.attention.kind": "sge"})
    assert changed.stages[1].attention == AttentionSpec(kind="sge", placement="after_stage")
    assert get_path(changed, "stages.1.attention.groups") == 8  # the default of its own


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("stages.2.width", r"there are 2 stages, 0 to 1"),
        ("stages.0.widht", r"'widht' is unknown; did you mean 'width'"),
        ("stem.width.x", r"'x' would be inside a plain value"),
        ("stages.0.attention.grups", r"did you mean 'groups'"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path: str, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        replace_paths(parse_architecture(PLAIN), {path: 1})


def test_is_active_follows_the_fields_that_decide() -> None:
    tree = parse_architecture(with_attention(kind="se")).model_dump()
    assert is_active(tree, "stages.1.attention.rd_ratio")
    assert not is_active(tree, "stages.1.attention.groups")
    assert not is_active(tree, "stages.0.attention.placement")
    assert not is_active(tree, "head.gem_p")
    tree["head"]["pooling"] = "gem"
    assert is_active(tree, "head.gem_p")


def test_attention_after_one_block_without_a_shortcut_is_attention_before_the_add() -> None:
    # Stage 0 of PLAIN has a shortcut (16 to 16, stride 1) where the add makes a difference.
    for stage, same in ((0, False), (1, True)):
        after, before = (
            replace_paths(
                parse_architecture(PLAIN),
                {
                    "stages.1.depth": 1,
                    f"stages.{stage}.attention.kind": "se",
                    f"stages.{stage}.attention.placement": placement,
                },
            )
            for placement in ("after_stage", "before_add")
        )
        assert (after == before) == (after.arch_id == before.arch_id) == same


def test_setting_the_kind_that_is_there_keeps_its_options() -> None:
    arch = parse_architecture(with_attention(kind="se", rd_ratio=4))
    assert replace_paths(arch, {"stages.1.attention.kind": "se"}) == arch


def strided(*strides: int) -> Architecture:
    return parse_architecture(
        {
            "stem": {"width": 8, "stride": strides[0]},
            "stages": [{"depth": 1, "width": 8, "stride": s} for s in strides[1:]],
        }
    )


@pytest.mark.parametrize(
    ("resolution", "expected", "last"),
    [
        # total stride 32 as drawn; the front ones go first until the last map has 4 pixels
        (224, (2, 1, 2, 2, 2, 1, 2), 7),
        (128, (2, 1, 2, 2, 2, 1, 2), 4),
        (96, (1, 1, 2, 2, 2, 1, 2), 6),
        (32, (1, 1, 1, 2, 2, 1, 2), 4),
        (16, (1, 1, 1, 1, 2, 1, 2), 4),
        (8, (1, 1, 1, 1, 1, 1, 2), 4),
        (4, (1, 1, 1, 1, 1, 1, 1), 4),
    ],
)
def test_at_resolution_drops_strides_from_the_front(
    resolution: int, expected: tuple[int, ...], last: int
) -> None:
    arch = strided(2, 1, 2, 2, 2, 1, 2).at_resolution(resolution)
    assert (arch.stem.stride, *(s.stride for s in arch.stages)) == expected
    assert arch.map_sizes(resolution)[-1] == last


def test_at_resolution_refuses_what_is_too_small() -> None:
    with pytest.raises(ArchitectureError, match="must be 4 or more, is 3"):
        strided(2, 2).at_resolution(3)


def test_fusion_stage_is_the_last_before_the_last_downsampling() -> None:
    assert strided(2, 1, 2, 2, 1, 2).fusion_stage == 3
    assert strided(2, 2).fusion_stage == 0
    assert strided(1, 1, 1, 1).fusion_stage == 1


def test_options_hold_the_defaults_too() -> None:
    assert AttentionSpec(kind="se").options == {"rd_ratio": 16, "bias": True}
    assert AttentionSpec().options == {}


def test_a_value_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        HeadSpec().dropout = 0.5  # type: ignore[misc]
