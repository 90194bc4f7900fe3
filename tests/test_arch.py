import json
import pickle
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nasattn.arch import Architecture, parse_architecture
from nasattn.attention import build_attention
from nasattn.blocks import BLOCKS
from nasattn.errors import ArchitectureError
from nasattn.model import build_model
from nasattn.parts import BLOCK_FIELDS, AttentionSpec, HeadSpec, StageSpec, StemSpec
from nasattn.paths import get_path, is_active, replace_paths
from tests.strategies import architectures, attentions

PLAIN: dict[str, Any] = {
    "stem": {"width": 16},
    "stages": [{"depth": 1, "width": 16}, {"depth": 2, "width": 24, "stride": 2, "expansion": 2}],
}


def with_attention(**fields: object) -> dict[str, Any]:
    return PLAIN | {"stages": [PLAIN["stages"][0], PLAIN["stages"][1] | {"attention": fields}]}


def residual(*stages: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """Bottlenecks of depth 1 and 16 channels if nothing else is said, behind 16 channels."""
    filled = [{"depth": 1, "block": "bottleneck", "width": 16, **stage} for stage in stages]
    return {"stem": {"width": 16}, "stages": filled, **parts}


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
def test_canonical_form_is_a_fixed_point(data: dict[str, Any]) -> None:
    arch = parse_architecture(data)
    assert parse_architecture(arch.model_dump()) == arch
    assert parse_architecture(arch) == arch


@given(architectures(), architectures())
def test_fields_that_a_block_does_not_read_do_not_make_another_network(
    data: dict[str, Any], other: dict[str, Any]
) -> None:
    noisy = deepcopy(data)
    for stage, donor in zip(noisy["stages"], other["stages"], strict=False):
        unread = donor.keys() & BLOCK_FIELDS - BLOCKS[stage["block"]].fields
        stage.update({field: donor[field] for field in unread})
    assert parse_architecture(noisy).arch_id == parse_architecture(data).arch_id


@given(architectures(), st.sampled_from([8, 16, 33]))
@settings(max_examples=20, deadline=None)  # the first one imports modules
def test_every_architecture_builds_and_runs(data: dict[str, Any], resolution: int) -> None:
    arch = parse_architecture(data).at_resolution(resolution)
    model = build_model(arch, num_classes=3).eval()
    x = torch.zeros(2, 3, resolution, resolution)
    with torch.no_grad():
        assert model(x).shape == (2, 3)
        found = [y.shape[1:] for y in model.feature_maps(x).values()]
    sizes = arch.map_sizes(resolution)[1:]
    last = arch.strides.values()
    assert found == [(arch.stages[i].width, sizes[i], sizes[i]) for i in last]


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
        (with_attention(kind="lgam", groups=4.0), with_attention(kind="lgam")),
        (PLAIN | {"head": {"pooling": "avg", "gem_p": 5, "gem_learnable": True}}, PLAIN),
        (
            PLAIN | {"head": {"pooling": "gem", "gem_learnable": True, "gem_p": 7}},
            PLAIN | {"head": {"pooling": "gem", "gem_learnable": True}},
        ),
        (PLAIN | {"fusion": {"kind": "none", "terms": 2}}, PLAIN),
        (PLAIN | {"stages": [*PLAIN["stages"], {"depth": 0, "width": 99}]}, PLAIN),
        (PLAIN | {"stem": {"width": 16.0, "stride": 2}}, PLAIN),
        (PLAIN | {"stages": [{**stage, "groups": 2} for stage in PLAIN["stages"]]}, PLAIN),
        (PLAIN | {"fusion": {"kind": "aff", "scales": 2}}, PLAIN | {"fusion": {"kind": "aff"}}),
        (PLAIN | {"fusion": {"attention": {"kind": "se"}}}, PLAIN),
        (PLAIN | {"head": {"hidden_layers": 2, "hidden_act": "relu"}}, PLAIN),
        (PLAIN | {"progressive": True}, PLAIN),
        # the last stage's attention is whole, whatever stands before it
        (with_attention(kind="se") | {"progressive": True}, with_attention(kind="se")),
        (residual({"radix": 4}), residual({})),
        (residual({"conv": "sk", "radix": 4}), residual({"conv": "sk"})),
        (residual({"conv": "splat", "radix": 2}), residual({"conv": "splat"})),
        (residual({"pool": "after", "width": 32}), residual({"width": 32})),
        (residual({"shortcut": "pad"}), residual({"shortcut": "avg"})),
        (residual({"width": 32, "run_share": 0.5}), residual({"width": 32})),
        (residual({"stride": 2, "run_share": 0.5}), residual({"stride": 2})),
        (residual({"norm": "lrn"}), residual({})),
        (residual({"width": 32, "shortcut": "avg"}), residual({"width": 32})),
        (
            residual(
                {"block": "preact_basic"},
                stem={"width": 16, "norm": "lrn", "convs": 3, "attention": {"kind": "se"}},
            ),
            residual({"block": "preact_basic"}),
        ),
        (residual({}, {}, fusion={"kind": "multi_scale"}), residual({}, {})),
        (
            residual({"block": "conv", "shortcut": "pad", "run_share": 0.5, "expansion": 4}),
            residual({"block": "conv"}),
        ),
        (
            residual({"block": "conv", "attention": {"kind": "se", "placement": "after_spatial"}}),
            residual({"block": "conv", "attention": {"kind": "se"}}),
        ),
        (
            residual({}, {"stride": 2}, fusion={"kind": "multi_scale", "scales": 4}),
            residual({}, {"stride": 2}, fusion={"kind": "multi_scale", "scales": 2}),
        ),
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
        (
            PLAIN | {"stem": {"width": "wide"}},
            r"stem.width: must be a whole number, is the text 'wide'",
        ),
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


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ({}, {"groups": 2}),
        ({}, {"expansion": 2}),
        ({}, {"kernel": 5}),
        ({}, {"width": 24}),
        ({}, {"stride": 2}),
        ({}, {"run_share": 0.5}),
        ({}, {"block": "basic"}),
        ({}, {"conv": "sk"}),
        ({"conv": "sk"}, {"conv": "splat"}),
        ({"conv": "splat"}, {"radix": 1}),
        ({"width": 24}, {"shortcut": "pad"}),
        ({"stride": 2}, {"shortcut": "avg"}),
        ({"stride": 2}, {"shortcut": "pad"}),
        ({"stride": 2}, {"pool": "before"}),
        ({"stride": 2, "pool": "before"}, {"pool": "after"}),
        ({"stride": 2, "depth": 2}, {"run_share": 0.5}),  # of the second block
        ({"block": "conv"}, {"norm": "none"}),
        (
            {"block": "conv", "norm": "lrn", "attention": {"kind": "se"}},  # before LRN
            {"attention": {"kind": "se", "placement": "after_stage"}},
        ),
        ({"block": "conv", "norm": "none"}, {"norm": "lrn"}),
    ],
    ids=str,
)
def test_a_field_that_means_something_makes_another_network(
    stage: dict[str, Any], change: dict[str, Any]
) -> None:
    plain, changed = residual(stage), residual(stage | change)
    assert parse_architecture(changed).arch_id != parse_architecture(plain).arch_id


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (residual({"block": "botleneck"}), r"stages.0.block: unknown .* mean 'bottleneck'"),
        (residual({"groups": 3}), r"stages.0.groups: 3 does not divide 16 channels"),
        (residual({"expansion": 2, "groups": 16}), r"groups: 16 does not divide 8 channels"),
        (
            residual({}, {"conv": "splat", "groups": 8, "radix": 4}),
            r"stages.1.groups: 8 x radix 4 does not divide 16 channels",
        ),
        (residual({"block": "conv", "width": 24, "groups": 3}), r"3 does not divide 16 channels"),
        (residual({"block": "conv", "width": 20, "groups": 8}), r"8 does not divide 20 channels"),
        (residual({"groups": 0}), r"stages.0.groups: must be greater than 0, is 0"),
        (residual({"conv": "ska"}), r"stages.0.conv: must be 'plain', 'sk' or 'splat', is 'ska'"),
        (residual({"conv": "splat", "radix": 3}), r"stages.0.radix: must be 1, 2 or 4, is 3"),
        (residual({"stride": 2, "pool": "max"}), r"stages.0.pool: must be 'none', .* is 'max'"),
        (residual({"shortcut": "id"}), r"stages.0.shortcut: must be 'conv', 'avg' or 'pad'"),
        (
            residual({"width": 8, "shortcut": "pad"}),
            r"stages.0.shortcut: pad cannot make 8 of 16 channels",
        ),
        (residual({"block": "conv", "norm": "layer"}), r"stages.0.norm: must be 'batch', 'none'"),
        (residual({"run_share": 0}), r"stages.0.run_share: must be greater than 0, is 0"),
        (residual({"run_share": 1.5}), r"stages.0.run_share: must be less than .* 1, is 1.5"),
        (residual({"stride": 3}), r"stages.0.stride: must be 1 or 2, is 3"),
        (residual({"kernel": 4}), r"stages.0.kernel: must be 3, 5 or 7, is 4"),
        (residual({"expansion": 0.5}), r"stages.0.expansion: must be greater than or equal to 1"),
        (residual({"depth": 201}), r"stages.0.depth: must be less than or equal to 200, is 201"),
        (residual({"width": 20_000}), r"stages.0.width: must be less than or equal to 16384"),
        (residual(*[{}] * 65), r"stages: .*at most 64 items"),
        (
            residual({}, {"block": "preact_basic"}),
            r"stages: preact_basic blocks do not mix with other kinds",
        ),
        (residual({}, stem={"width": 8, "convs": 2}), r"stem.convs: must be 1 or 3, is 2"),
        (residual({}, stem={"width": 8, "stride": 3}), r"stem.stride: must be 1, 2 or 4, is 3"),
        (residual({}, stem={"width": 8, "kernel": 9}), r"stem.kernel: must be 3, 5, 7 or 11, is 9"),
        (residual({}, stem={"width": 8, "pool": "max"}), r"stem.pool: must be true or false"),
        (
            residual({}, stem={"width": 9, "attention": {"kind": "sge"}}),
            r"stem.attention.groups: 8 does not divide the 9 channels of the stem",
        ),
        (
            residual({}, stem={"width": 8, "attention": {"kind": "se", "placement": "before_add"}}),
            r"unknown field 'placement'",
        ),
        (
            residual(
                {"width": 20},
                {"stride": 2},
                fusion={"kind": "multi_scale", "attention": {"kind": "sge"}},
            ),
            r"fusion.attention.groups: 8 does not divide the 20 channels of a fused map",
        ),
        (
            residual(
                {},
                fusion={"kind": "multi_scale", "attention": {"kind": "sge"}},
                head={"conv_width": 12},
            ),
            r"fusion.attention.groups: 8 does not divide the 12 channels of a fused map",
        ),
        (residual({}, fusion={"kind": "mult"}), r"fusion.kind: must be .*'multi_scale'.* 'mult'"),
        (
            residual({}, fusion={"kind": "multi_scale", "scales": 5}),
            r"fusion.scales: must be 2, 3 or 4, is 5",
        ),
        (residual({}, head={"pooling": "max"}), r"head.pooling: must be 'avg', 'gem' or 'grid'"),
        (
            residual({}, head={"hidden": 8, "hidden_layers": 3}),
            r"head.hidden_layers: must be 1 or 2, is 3",
        ),
        (
            residual({}, head={"hidden": 8, "hidden_act": "gelu"}),
            r"head.hidden_act: must be 'relu', .* is 'gelu'",
        ),
        (residual({}, act="gelu"), r"act: must be 'relu', 'relu6', 'hard_swish' or 'silu'"),
        (
            residual({"width": 8, "expansion": 16}),
            r"stages.0.expansion: 16 leaves none of 8 channels",
        ),
        (residual({}, stem={"width": 1, "convs": 3}), r"stem.width: three .* 2 or more, is 1"),
        (residual({"attention": "se"}, {}, progressive=True), r"attention: must be a valid dict"),
        ({"stem": {"width": 8}, "stages": ["x", "y"], "progressive": True}, r"stages.0: must be"),
        (residual({"attention": {"kind": "se"}}, {}, progressive="maybe"), r"progressive: must be"),
    ],
)
def test_a_block_stem_head_or_fusion_that_cannot_be_is_refused(
    data: dict[str, Any], message: str
) -> None:
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


@pytest.mark.parametrize(
    ("resolution", "stem_stride", "pool", "strides", "sizes"),
    [
        (224, 2, True, (1, 2, 2, 2), [56, 56, 28, 14, 7]),
        (65, 1, True, (1, 2, 2, 2), [33, 33, 17, 9, 5]),
        (64, 1, True, (1, 2, 2, 2), [32, 32, 16, 8, 4]),
        (32, 1, False, (1, 2, 2, 2), [32, 32, 16, 8, 4]),  # the usual CIFAR form
        (16, 1, False, (1, 1, 2, 2), [16, 16, 16, 8, 4]),
        (8, 1, False, (1, 1, 1, 2), [8, 8, 8, 8, 4]),
        (4, 1, False, (1, 1, 1, 1), [4, 4, 4, 4, 4]),
    ],
)
def test_at_resolution_drops_the_stems_pooling_before_the_stages_strides(
    resolution: int, stem_stride: int, pool: bool, strides: tuple[int, ...], sizes: list[int]
) -> None:
    strided = {"stride": 2, "pool": "after", "shortcut": "avg"}
    stages: list[dict[str, Any]] = [{"stride": 1}, *[strided] * 3]
    drawn = parse_architecture(residual(*stages, stem={"width": 16, "kernel": 7, "pool": True}))
    arch = drawn.at_resolution(resolution)
    assert (arch.stem.stride, arch.stem.pool) == (stem_stride, pool)
    assert tuple(stage.stride for stage in arch.stages) == strides
    assert arch.map_sizes(resolution) == sizes
    assert all(stage.pool == "none" for stage in arch.stages if stage.stride == 1)
    assert arch.at_resolution(resolution) == arch


@pytest.mark.parametrize(
    ("stem", "size"),
    [
        ({}, 112),
        ({"kernel": 7}, 112),
        ({"kernel": 7, "pool": True}, 56),
        ({"kernel": 11, "stride": 4}, 55),  # AlexNet's: (224 + 2 * 2 - 11) / 4 + 1, cut off
        ({"kernel": 7, "stride": 4}, 56),
        ({"kernel": 11, "stride": 1}, 224),
        ({"convs": 3, "pool": True}, 56),
    ],
)
def test_a_stem_makes_maps_of_the_formulas_size(stem: dict[str, Any], size: int) -> None:
    assert StemSpec.model_validate({"width": 8} | stem).map_size(224) == size


def test_conv_blocks_round_down_where_the_others_round_up() -> None:
    sizes = {
        block: StageSpec.model_validate(
            {"depth": 1, "width": 8, "block": block, "stride": 2}
        ).map_size(13)
        for block in BLOCKS
    }
    assert sizes == {block: 6 if block == "conv" else 7 for block in BLOCKS}


def test_strides_name_the_last_stage_of_each() -> None:
    arch = parse_architecture(
        residual(
            *({"stride": s} for s in (1, 2, 1, 2, 2, 1)),
            stem={"width": 16, "pool": True},
            fusion={"kind": "multi_scale", "scales": 3},
        )
    )
    assert arch.strides == {4: 0, 8: 2, 16: 3, 32: 5}
    assert arch.fusion_stages == (2, 3)  # strides 8 and 16 beside the last
    assert replace_paths(arch, {"fusion.scales": 4}).fusion_stages == (0, 2, 3)
    assert replace_paths(arch, {"fusion.kind": "aff"}).fusion_stages == (3,)
    assert replace_paths(arch, {"fusion.kind": "none"}).fusion_stages == ()


def test_attention_widths_are_those_of_its_place() -> None:
    # 48 channels enter; an inverted residual widens those that enter, a bottleneck narrows its own
    for block, inner in (
        ("inverted_residual", {48 * 2, 16 * 2}),
        ("bottleneck", {16 // 2}),
        ("basic", {16}),
        ("preact_basic", {16}),
    ):
        stage = StageSpec.model_validate(
            {
                "depth": 2,
                "width": 16,
                "block": block,
                "expansion": 2,
                "attention": {"kind": "se", "placement": "after_spatial"},
            }
        )
        assert stage.attention_widths(48) == inner


def test_at_resolution_refuses_what_is_too_small() -> None:
    with pytest.raises(ArchitectureError, match="must be 4 or more, is 3"):
        strided(2, 2).at_resolution(3)


def test_fusion_stage_is_the_last_before_the_last_downsampling() -> None:
    assert strided(2, 1, 2, 2, 1, 2).fusion_stage == 3
    assert strided(2, 2).fusion_stage == 0
    assert strided(1, 1, 1, 1).fusion_stage == 1


@pytest.mark.parametrize(
    ("part", "message"),
    [  # to `means` all of these texts say yes
        (
            {"head": {"pooling": "gem", "gem_learnable": "false", "gem_p": 5}},
            r"head.gem_learnable: must be true or false, is the text 'false'",
        ),
        (
            {"head": {"hidden": "0", "hidden_act": "relu"}},
            r"head.hidden: must be a whole number, is the text '0'",
        ),
        ({"head": {"dropout": "0.5"}}, r"head.dropout: must be a number, is the text '0.5'"),
        ({"stages": [{"depth": "0", "width": 8}]}, r"stages.0.depth: must be a whole number"),
        ({"progressive": "no", **residual({"attention": {"kind": "se"}}, {})}, r"progressive: .*'"),
    ],
)
def test_text_is_neither_a_number_nor_a_boolean(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        parse_architecture(PLAIN | part)


# (kind, its options but one, that one, channels before it, whether it makes no difference)
IDLE: list[tuple[str, dict[str, Any], dict[str, Any], int, bool]] = [
    ("se", {}, {"rd_ratio": 8}, 8, True),  # 8 / 8 = 1; 8 / 16 would be none: one
    ("se", {}, {"rd_ratio": 4}, 8, False),
    ("se", {}, {"rd_ratio": 13}, 64, True),  # 64 // 13 = 64 // 16 = 4
    ("se", {}, {"rd_ratio": 12}, 64, False),
    ("lgam", {}, {"rd_ratio": 2}, 32, True),  # 32 / 4 = 8 channels a group, 8 hidden ones at least
    ("lgam", {"hidden_min": 2}, {"rd_ratio": 2}, 32, False),
    ("lgam", {"groups": 2}, {"rd_ratio": 2}, 32, True),  # 16 / 2 = 8
    ("lgam", {"groups": 1}, {"rd_ratio": 2}, 32, False),  # 32 / 2 = 16
    ("lgam", {"groups": 1}, {"carry": "sum"}, 32, True),
    ("lgam", {"groups": 2}, {"carry": "sum"}, 32, False),
    ("gc", {}, {"rd_ratio": 4}, 8, True),  # 2 at least
    ("gc", {}, {"rd_ratio": 2}, 8, False),
    ("nl", {}, {"rd_ratio": 3}, 3, True),  # 3 // 3 = 3 // 2 = 1
    ("nl", {}, {"rd_ratio": 4}, 8, False),
    ("bam", {}, {"depthwise": True}, 16, True),  # of a single channel
    ("bam", {"rd_ratio": 8}, {"depthwise": True}, 16, False),
    ("bam", {"rd_ratio": 8}, {"rd_ratio": 12}, 16, True),
    ("cbam", {}, {"rd_ratio": 20}, 16, True),
    ("ska", {"groups": 8}, {"gem_p": 5.0}, 8, True),  # of a single channel
    ("ska", {"groups": 4}, {"gem_p": 5.0}, 8, False),
]


@pytest.mark.parametrize(("kind", "others", "option", "channels", "idle"), IDLE)
def test_an_option_that_makes_no_difference_does_not_make_another_network(
    kind: str, others: dict[str, Any], option: dict[str, Any], channels: int, idle: bool
) -> None:
    (name,) = option
    others = {k: v for k, v in others.items() if k != name}
    attention = {"kind": kind, **others}
    for part in ("stem", "stages", "fusion"):
        with_it, without = (
            parse_architecture(attended(part, channels, a)) for a in (attention | option, attention)
        )
        assert (with_it.arch_id == without.arch_id) == (with_it == without) == idle


def attended(part: str, channels: int, attention: dict[str, Any]) -> dict[str, Any]:
    """A network of so many channels with an attention in one part."""
    data: dict[str, Any] = {
        "stem": {"width": channels},
        "stages": [{"depth": 1, "width": channels}, {"depth": 1, "width": channels, "stride": 2}],
        "fusion": {"kind": "multi_scale"},
    }
    where = data["stages"][0] if part == "stages" else data[part]
    where["attention"] = attention
    return data


def test_an_option_that_makes_a_difference_somewhere_is_kept_everywhere() -> None:
    # 64 // 13 = 64 // 16, the hidden widths of the first block; 128 // 13 = 9 of the second
    def network(rd_ratio: int, depth: int) -> Architecture:
        stage = {"block": "inverted_residual", "depth": depth, "width": 32, "expansion": 4}
        attention = {"kind": "se", "placement": "after_spatial", "rd_ratio": rd_ratio}
        return parse_architecture(residual(stage | {"attention": attention}))

    assert network(13, depth=1) == network(16, depth=1)
    assert network(13, depth=2) != network(16, depth=2)


@pytest.mark.slow
@given(attentions(placed=False), st.sampled_from([8, 16, 24, 48, 64]), st.data())
@settings(max_examples=200, deadline=None)
def test_networks_have_one_id_if_and_only_if_they_build_alike(
    attention: dict[str, Any], channels: int, data: st.DataObject
) -> None:
    options = sorted(attention.keys() - {"kind"} - NEVER_SETTLED)
    assume(options)
    name = data.draw(st.sampled_from(options))
    twin = {k: v for k, v in attention.items() if k != name}
    ids = {parse_architecture(attended("stages", channels, a)).arch_id for a in (attention, twin)}
    alike = build_alike(attention, twin, channels)
    assert (len(ids) == 1) == alike


# lgam's hidden_min stays as it is written where the ratio alone gives the width.
NEVER_SETTLED = {"hidden_min"}


def build_alike(a: dict[str, Any], b: dict[str, Any], channels: int) -> bool:
    """Whether two attentions have parameters of equal shapes, and with equal ones equal outputs."""
    first, second = (
        build_attention(channels=channels, **options).double().eval() for options in (a, b)
    )
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (first, second)]
    if shapes[0] != shapes[1]:
        return False
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    # no variance below 0.5
    state = {k: random(*v.shape).abs() + 0.5 for k, v in first.state_dict().items()}
    signs = {k: random(*v.shape).sign() if "weight" in k else 1 for k, v in state.items()}
    state = {k: v * signs[k] for k, v in state.items()}
    for module in (first, second):
        module.load_state_dict(state)
    x = random(2, channels, 9, 9)
    with torch.no_grad():
        return torch.allclose(first(x), second(x), rtol=1e-12, atol=1e-12)


def test_options_hold_the_defaults_too() -> None:
    assert AttentionSpec(kind="se").options == {"rd_ratio": 16, "bias": True}
    assert AttentionSpec().options == {}


def test_a_value_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        HeadSpec().dropout = 0.5  # type: ignore[misc]


def test_the_options_of_an_attention_cannot_be_changed() -> None:
    arch = parse_architecture(with_attention(kind="se", rd_ratio=4))
    arch_id, attention = arch.arch_id, arch.stages[1].attention
    with pytest.raises(TypeError, match="does not support item assignment"):
        attention.model_extra["rd_ratio"] = 2  # type: ignore[index]
    with pytest.raises(ValueError, match="frozen"):
        attention.rd_ratio = 2  # type: ignore[attr-defined]
    attention.options["rd_ratio"] = 2  # a copy
    assert arch.arch_id == arch_id
    assert attention.model_dump() == {"kind": "se", "placement": "before_add", "rd_ratio": 4}
    assert pickle.loads(pickle.dumps(arch)) == deepcopy(arch) == arch.model_copy() == arch
