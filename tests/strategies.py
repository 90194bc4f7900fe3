"""Random architectures for property tests, as plain data that may hold inactive fields."""

from typing import Any

from hypothesis import strategies as st

from nasattn.attention import ATTENTIONS

PLACEMENTS = ["after_spatial", "before_add", "after_stage"]
# Every width and every width x expansion is a multiple of 8, so that all group counts divide.
WIDTHS = st.sampled_from([16, 32, 48, 64])


def attentions() -> st.SearchStrategy[dict[str, Any]]:
    """Any kind with some of its own options, and placements also where there is no attention."""
    plain = st.fixed_dictionaries(
        {"kind": st.just("none")}, optional={"placement": st.sampled_from(PLACEMENTS)}
    )
    options: dict[str, dict[str, st.SearchStrategy[Any]]] = {kind: {} for kind in ATTENTIONS}
    for kind in ("sge", "lgam"):
        options[kind]["groups"] = st.sampled_from([1, 2, 4, 8])
    for kind in ("se", "cbam", "lgam"):
        options[kind]["rd_ratio"] = st.integers(1, 16)
    for kind in ("eca", "lam"):
        options[kind]["dense"] = st.booleans()
    kinds = [
        st.fixed_dictionaries(
            {"kind": st.just(kind)},
            optional={"placement": st.sampled_from(PLACEMENTS), **own},
        )
        for kind, own in options.items()
    ]
    return st.one_of(plain, *kinds)


def stages() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"depth": st.integers(1, 3), "width": WIDTHS},
        optional={
            "stride": st.sampled_from([1, 2]),
            "expansion": st.sampled_from([1, 1.5, 2, 6]),
            "kernel": st.sampled_from([3, 5, 7]),
            "attention": attentions(),
        },
    )


def architectures() -> st.SearchStrategy[dict[str, Any]]:
    """Plain data of an architecture that can be built."""
    head = st.fixed_dictionaries(
        {},
        optional={
            "conv_width": st.sampled_from([0, 64]),
            "pooling": st.sampled_from(["avg", "gem"]),
            "gem_p": st.integers(1, 8),
            "gem_learnable": st.booleans(),
            "hidden": st.sampled_from([0, 32]),
            "dropout": st.sampled_from([0.0, 0.5]),
        },
    )
    fusion = st.fixed_dictionaries(
        {"kind": st.sampled_from(["none", "aff"])}, optional={"terms": st.sampled_from([2, 3])}
    )
    return st.fixed_dictionaries(
        {
            "stem": st.fixed_dictionaries({"width": WIDTHS}),
            "stages": st.lists(stages(), min_size=1, max_size=4),
        },
        optional={
            "head": head,
            "fusion": fusion,
            "act": st.sampled_from(["relu", "relu6", "silu"]),
        },
    )
