"""Random architectures for property tests, as plain data that may hold inactive fields."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from nasattn.attention import ATTENTIONS

Data = dict[str, Any]

PLACEMENTS = ["after_spatial", "before_add", "after_stage"]
# Every width, width x expansion and width / expansion is a multiple of 8, so that all group
# counts divide, those of attention and groups x radix of a convolution.
WIDTHS = st.sampled_from([16, 32, 48, 64])
EXPANSIONS: dict[str, list[float]] = {
    "inverted_residual": [1, 1.5, 2, 6],
    "basic": [1, 6],
    "bottleneck": [1, 2],
    "preact_basic": [1, 6],
    "conv": [1, 6],
}
ACTS = st.sampled_from(["relu", "relu6", "hard_swish", "silu"])
NORMS = st.sampled_from(["batch", "none", "lrn"])


def option_values(name: str, field: FieldInfo) -> st.SearchStrategy[Any]:
    """Values of an attention option; small ones where they are widths or counts."""
    if name == "groups":
        return st.sampled_from([1, 2, 4, 8])
    if field.annotation is int:
        return st.integers(1, 16)
    return st.from_type(field.rebuild_annotation())


def attentions(placed: bool = True) -> st.SearchStrategy[Data]:
    """Any kind with some of its own options, and placements also where there is no attention."""
    place = {"placement": st.sampled_from(PLACEMENTS)} if placed else {}
    kinds = [
        st.fixed_dictionaries(
            {"kind": st.just(kind)},
            optional=place | {name: option_values(name, field) for name, field in fields.items()},
        )
        for kind, fields in {
            "none": {},
            **{kind: row.options.model_fields for kind, row in ATTENTIONS.items()},
        }.items()
    ]
    return st.one_of(kinds)


def stages(block: str) -> st.SearchStrategy[Data]:
    """Plain data of a stage; fields that its block does not read may be there too."""
    return st.fixed_dictionaries(
        {"block": st.just(block), "depth": st.integers(1, 3), "width": WIDTHS},
        optional={
            "stride": st.sampled_from([1, 2]),
            "expansion": st.sampled_from(EXPANSIONS[block]),
            "kernel": st.sampled_from([3, 5, 7]),
            "attention": attentions(),
            "groups": st.sampled_from([1, 2]),
            "conv": st.sampled_from(["plain", "sk", "splat"]),
            "radix": st.sampled_from([1, 2, 4]),
            "pool": st.sampled_from(["none", "before", "after"]),
            "shortcut": st.sampled_from(["conv", "avg", "pad"]),
            "norm": NORMS,
            "run_share": st.sampled_from([0.25, 0.5, 1]),
        },
    )


def stage_lists(blocks: Sequence[str]) -> st.SearchStrategy[list[Data]]:
    return st.lists(st.one_of([stages(block) for block in blocks]), min_size=1, max_size=4)


def heads() -> st.SearchStrategy[Data]:
    return st.fixed_dictionaries(
        {},
        optional={
            "conv_width": st.sampled_from([0, 64]),
            "pooling": st.sampled_from(["avg", "gem", "grid"]),
            "gem_p": st.integers(1, 8),
            "gem_learnable": st.booleans(),
            "hidden": st.sampled_from([0, 32]),
            "hidden_layers": st.sampled_from([1, 2]),
            "hidden_act": ACTS,
            "dropout": st.sampled_from([0.0, 0.5]),
        },
    )


def stems() -> st.SearchStrategy[Data]:
    return st.fixed_dictionaries(
        {"width": WIDTHS},
        optional={
            "stride": st.sampled_from([1, 2, 4]),
            "kernel": st.sampled_from([3, 5, 7, 11]),
            "convs": st.sampled_from([1, 3]),
            "pool": st.booleans(),
            "norm": NORMS,
            "attention": attentions(placed=False),
        },
    )


def fusions() -> st.SearchStrategy[Data]:
    return st.fixed_dictionaries(
        {"kind": st.sampled_from(["none", "aff", "multi_scale"])},
        optional={
            "terms": st.sampled_from([2, 3]),
            "scales": st.sampled_from([2, 3, 4]),
            "attention": attentions(placed=False),
        },
    )


def architectures() -> st.SearchStrategy[Data]:
    """Plain data of an architecture that can be built."""
    mixed = stage_lists([block for block in EXPANSIONS if block != "preact_basic"])
    return st.fixed_dictionaries(
        {"stem": stems(), "stages": mixed | stage_lists(["preact_basic"])},
        optional={"head": heads(), "fusion": fusions(), "act": ACTS, "progressive": st.booleans()},
    ).map(_without_cuts)


def _without_cuts(data: Data) -> Data:
    """Shortcuts that pad stay only where there are channels to add."""
    entering = [data["stem"]["width"], *(stage["width"] for stage in data["stages"])]
    for in_chs, stage in zip(entering, data["stages"], strict=False):
        if stage["width"] < in_chs and stage.get("shortcut") == "pad":
            stage["shortcut"] = "avg"
    return data
