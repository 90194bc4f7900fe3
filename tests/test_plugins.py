"""Attention modules from outside: loading, their row, the contract, the commands."""

import inspect
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import NoReturn, get_args
from unittest import SkipTest

import pytest
import torch
from torch import Tensor, nn

from nasattn.arch import parse_architecture
from nasattn.attention import ATTENTIONS, AttentionKind, build_attention, plugins
from nasattn.attention.plugins import PLUGINS, load_plugin, snake_case
from nasattn.attention.table import all_options, get_kind
from nasattn.cost import count_cost
from nasattn.errors import ArchitectureError, PluginError, SpaceError, UnknownNameError
from nasattn.model import build_model
from nasattn.parts import AttentionSpec
from nasattn.space import load_space
from nasattn.testing import (
    ATTENTION_CHECKS,
    EXPORT_CHECKS,
    Checked,
    attention_contract,
    check_attention,
    space_contract,
)
from tests.command import assert_refused, nasattn

GOOD = '''
from typing import Literal

import torch
from torch import Tensor, nn


class MyAttn(nn.Module):
    """Channel gate from the mean of each map.

    Source: nowhere.
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int = 4,
        bias: bool = True,
        steps: int = 0,
        temperature: float = 1,
        gate: Literal["sigmoid", "tanh"] = "sigmoid",
        kernel: Literal[1, 3] = 1,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.gate = torch.sigmoid if gate == "sigmoid" else torch.tanh
        self.mix = nn.Conv2d(channels, channels, kernel, 1, kernel // 2, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
        return x * self.gate(self.mix(mean) / self.temperature)


class Plain(nn.Module):
    name = "plain"

    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return x * torch.sigmoid(x)
'''

SPACE = """
template:
  stem: {width: 8}
  stages:
    - {depth: 2, width: 8}
    - {depth: 1, width: 16, stride: 2}
parameters:
  stages.attention.kind: KINDS
  stages.attention.temperature: {type: float, low: 0.5, high: 2.0}
  stages.attention.gate: [sigmoid, tanh]
  stages.*.kernel: [3, 5]
"""


def module(body: str) -> str:
    """A file that defines the module class Attn with `body` as its constructor's signature."""
    return (
        "from typing import Literal\nfrom torch import nn\n"
        f"class Attn(nn.Module):\n    def __init__({body}):\n        super().__init__()\n"
    )


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test works in a folder of its own, and leaves no kind and no module behind."""
    rows, loaded, modules = dict(ATTENTIONS), dict(PLUGINS), set(sys.modules)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("NASATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    Path("my_attn.py").write_text(GOOD, encoding="utf-8")
    yield
    forget_plugins(rows, loaded, modules)


def forget_plugins(
    rows: dict[str, AttentionKind], loaded: dict[str, str], modules: set[str]
) -> None:
    for table, before in ((ATTENTIONS, rows), (PLUGINS, loaded)):
        for kind in table.keys() - before.keys():
            del table[kind]
    for name in sys.modules.keys() - modules:
        if name.startswith(("nasattn_plugin_", "outside_")):
            del sys.modules[name]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path, as packages are installed into one."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def install(site: Path, package: str, entry_points: str, source: str = GOOD) -> None:
    """What pip leaves of a package of one module: the module, and its metadata."""
    (site / f"{package}.py").write_text(source, encoding="utf-8")
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[nasattn.attention]\n{entry_points}\n")


# Loading


def test_load_plugin_reads_the_row_from_the_class() -> None:
    assert load_plugin("my_attn.py:MyAttn") == "my_attn"
    row = ATTENTIONS["my_attn"]
    assert row.source == "Channel gate from the mean of each map."
    assert row.defaults == {
        "groups": 4,
        "bias": True,
        "steps": 0,
        "temperature": 1.0,
        "gate": "sigmoid",
        "kernel": 1,
    }
    assert type(row.defaults["temperature"]) is float
    fields = row.options.model_fields
    assert fields["bias"].annotation is bool
    assert get_args(fields["gate"].annotation) == ("sigmoid", "tanh")
    parameters = list(inspect.signature(row.load()).parameters.values())[1:]
    assert {p.name: p.default for p in parameters} == row.defaults


def test_load_plugin_is_built_like_a_built_in_kind() -> None:
    load_plugin("my_attn.py:MyAttn")
    torch.manual_seed(0)
    built = build_attention("my_attn", 8, temperature=2, gate="tanh")
    x = torch.randn(2, 8, 5, 5)
    # 8 * (8 / 4) weights and 8 biases, once a picture
    cost = count_cost(built, resolution=5, in_chs=8)
    assert (cost.params, cost.macs, cost.uncounted) == (24, 16, ())
    w, b = (p.detach() for p in built.parameters())
    mixed = (
        torch.stack(
            [
                (w[c, :, 0, 0] * x[:, c // 2 * 2 : c // 2 * 2 + 2].mean((2, 3))).sum(1)
                for c in range(8)
            ]
        ).T
        + b
    )  # (N, C)
    gate = torch.tanh(mixed / 2)[:, :, None, None]
    torch.testing.assert_close(built(x), x * gate, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperatur": 2}, "'my_attn': unknown field 'temperatur'; did you mean 'temperature'"),
        ({"gate": "relu"}, "'my_attn': gate: must be 'sigmoid' or 'tanh', is 'relu'"),
        ({"kernel": 2}, "'my_attn': kernel: must be 1 or 3, is 2"),
        ({"bias": "perhaps"}, "'my_attn': bias: must be a valid boolean"),
        ({"temperature": float("nan")}, "'my_attn': temperature: must be a finite number"),
        ({"groups": 0}, "'my_attn': groups: must be greater than 0, is 0"),
        ({"groups": 3}, "'my_attn': 3 groups do not divide 8"),
    ],
)
def test_a_plugin_refuses_a_wrong_option(options: dict[str, object], message: str) -> None:
    load_plugin("my_attn.py:MyAttn")
    with pytest.raises(ArchitectureError, match=message):
        build_attention("my_attn", 8, **options)


def test_load_plugin_takes_the_name_and_the_target_of_a_class_without_docstring() -> None:
    assert load_plugin("my_attn.py:Plain") == "plain"
    assert ATTENTIONS["plain"].source == "my_attn.py:Plain"
    assert ATTENTIONS["plain"].defaults == {}


def test_load_plugin_runs_a_file_once() -> None:
    Path("counted.py").write_text(f"{GOOD}\nwith open('runs', 'a') as f:\n    f.write('.')\n")
    before = dict(ATTENTIONS)
    assert load_plugin("counted.py:MyAttn") == load_plugin("./counted.py:MyAttn") == "my_attn"
    load_plugin("counted.py:Plain")
    assert Path("runs").read_text() == "."
    assert list(ATTENTIONS) == [*before, "my_attn", "plain"]
    assert sorted(p.name for p in Path().iterdir()) == ["counted.py", "my_attn.py", "runs"]


def test_load_plugin_imports_a_module(site: Path) -> None:
    (site / "outside_one.py").write_text(GOOD)
    assert load_plugin("outside_one:MyAttn") == "my_attn"
    assert ATTENTIONS["my_attn"].load().__module__ == "outside_one"


def test_load_plugin_reads_annotations_that_are_strings() -> None:
    source = "from __future__ import annotations\n" + module("self, channels, k: int = 3")
    Path("late.py").write_text(source)
    load_plugin("late.py:Attn")
    assert ATTENTIONS["attn"].options.model_fields["k"].annotation is int


@pytest.mark.parametrize(
    ("name", "snake"),
    [
        ("MyAttn", "my_attn"),
        ("Attn", "attn"),
        ("SEBlock2d", "se_block2d"),
        ("GCNet", "gc_net"),
        ("my_attn", "my_attn"),
        ("CBAM", "cbam"),
    ],
)
def test_snake_case_splits_words(name: str, snake: str) -> None:
    assert snake_case(name) == snake


# What cannot be loaded


BAD_FILES = {
    "syntax": ("import torch\ndef f(:\n", r"bad.py:2: cannot be imported \(SyntaxError: invalid"),
    "import": ("\n\nimport nowhere", "bad.py:3: cannot be imported .*No module named 'nowhere'"),
    "raise": (
        "def f():\n    raise ValueError('no\\ngo')\nf()",
        r"bad.py:2: cannot be imported \(ValueError: no\)",
    ),
    "silent": ("assert False", r"bad.py:1: cannot be imported \(AssertionError\)"),
    "exit": ("raise SystemExit(3)", r"bad.py:1: cannot be imported \(SystemExit: 3\)"),
    "an end of its own": (
        "class E(BaseException): pass\nraise E('x')",
        r"bad.py:2: cannot be imported \(E: x\)",
    ),
    "annotation": (
        "import sys\n" + module("self, channels, k: 'sys.exit(4)' = 1"),
        r"bad.py:Attn: has no readable signature \(SystemExit: 4\)",
    ),
    "docstring": (
        module("self, channels") + "    __doc__ = 5",
        "bad.py:Attn: the docstring must be text, is 5",
    ),
    "metaclass": (
        "from torch import nn\nclass M(type):\n    @property\n    def name(cls):\n"
        "        raise RuntimeError('x\\ny')\n"
        "class Attn(nn.Module, metaclass=M):\n    def __init__(self, channels): ...\n",
        r"bad.py:Attn: cannot be a kind of attention \(RuntimeError: x\)$",
    ),
    "zero bytes": ("a = 1\0", r"bad.py: cannot be imported \(.*null bytes"),
    "empty": ("", "bad.py: no class 'Attn'; there is no torch.nn.Module in it"),
    "no class": (
        "from torch import nn\nclass Atn(nn.Module): pass",
        r"bad.py: no class 'Attn'; did you mean 'Atn'\?",
    ),
    "function": ("def Attn(x): return x", "must be a class of torch.nn.Module, is a function"),
    "other class": ("class Attn: pass", "of torch.nn.Module, is another class"),
    "instance": ("from torch import nn\nAttn = nn.ReLU()", "torch.nn.Module, is a ReLU"),
    "no channels": (module("self"), r"must be built as Attn\(channels, .*, is Attn\(\)"),
    "named channels": (module("self, *, channels: int = 3"), r"must be built as Attn\(channels, "),
    "no default": (module("self, channels, k: int"), "option 'k': has no default"),
    "no type": (module("self, channels, k=3"), "option 'k': has no type; write k: int = "),
    "str": (module("self, c, k: str = 'a'"), "option 'k': must be a bool, .*, is str"),
    "list": (module("self, c, k: list[int] = []"), r"option 'k': must be a bool.*is list\[int\]"),
    "no type at all": (module("self, c, k: [1] = 1"), r"option 'k': must be a bool.*is \[1\]"),
    "literal": (module("self, c, k: Literal[True] = True"), "'k': must be a bool.*Literal.True"),
    "optional": (module("self, c, k: int | None = None"), r"'k': must be .*is int \| None"),
    "unknown type": (module("self, c, k: 'Int' = 1"), "no readable signature .*'Int' is not"),
    "kwargs": (module("self, c, **kwargs"), r"'kwargs': options are written .* as \*\*kwargs"),
    "args": (module("self, c, *args"), r"'args': options are written out one by one"),
    "positional": (module("self, c, k: int = 1, /"), "'k': options are written out"),
    "default": (module("self, c, k: int = 2.5"), "'k': the default must be a valid int.* is 2.5"),
    "bool default": (module("self, c, k: int = True"), "'k': the default must be a valid int"),
    "literal default": (
        module("self, c, k: Literal['a', 'b'] = 'c'"),
        "'k': the default must be 'a' or 'b', is 'c'",
    ),
    "infinite": (module("self, c, k: float = 1e999"), "'k': the default must be a finite number"),
    "groups": (module("self, c, groups: int = 0"), "'groups': the default must be greater than 0"),
    "groups type": (module("self, c, groups: float = 2.0"), "option 'groups': must be an int"),
    "reserved": (module("self, c, placement: int = 0"), "'placement': no option can have this"),
    "pydantic": (module("self, c, copy: int = 0"), "'copy': no option can have this name"),
    "private": (module("self, c, _k: int = 0"), "'_k': no option can have this name"),
    "taken": (module("self, c") + "    name = 'se'", "'se' is a built-in kind; give the plug-in"),
    "none": (module("self, c") + "    name = 'none'", "'none' is a built-in kind"),
    "no identifier": (module("self, c") + "    name = 'my-attn'", "plain identifier, is 'my-attn'"),
    "keyword": (module("self, c") + "    name = 'class'", "plain identifier, is 'class'"),
    "not ascii": (module("self, c") + "    name = 'ä'", "plain identifier, is 'ä'"),
    "no name": (module("self, c") + "    name = ''", "plain identifier, is ''"),
}


@pytest.mark.parametrize(("source", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_load_plugin_refuses(source: str, message: str) -> None:
    before = dict(ATTENTIONS)
    Path("bad.py").write_text(source, encoding="utf-8")
    with pytest.raises(PluginError, match=message) as caught:
        load_plugin("bad.py:Attn")
    assert "bad.py" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert before == ATTENTIONS
    assert not PLUGINS


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("my_attn.py", "'my_attn.py': must be FILE.py:CLASS or PACKAGE.MODULE:CLASS"),
        ("my_attn.py:", "'my_attn.py:': must be FILE.py:CLASS"),
        (":MyAttn", "':MyAttn': must be FILE.py:CLASS"),
        ("my_attn.py:My.Attn", "must be FILE.py:CLASS"),
        ("nowhere.py:MyAttn", r"nowhere.py: cannot be read \(No such file or directory\)"),
        ("folder.py:MyAttn", r"folder.py: cannot be read \(not a regular file\)"),
        ("pipe.py:MyAttn", r"pipe.py: cannot be read \(not a regular file\)"),
        (f"{'x' * 300}.py:MyAttn", r"x.py: cannot be read \(File name too long\)"),
        ("a\0b.py:MyAttn", r"cannot be read \(embedded null byte\)"),
        ("my_attn:MyAttn", "no module 'my_attn' is installed; a file is named FILE.py:CLASS"),
        ("torch.nowhere:MyAttn", "no module 'torch.nowhere' is installed"),
        (".relative:MyAttn", ".relative: cannot be imported"),
        ("torch.nn:Module", "torch.nn:Module: must be a class of torch.nn.Module, is another"),
    ],
)
def test_load_plugin_refuses_a_target(target: str, message: str) -> None:
    Path("folder.py").mkdir()
    os.mkfifo("pipe.py")
    with pytest.raises(PluginError, match=message) as caught:
        load_plugin(target)
    assert "\n" not in str(caught.value)
    assert not PLUGINS


@pytest.mark.parametrize(
    ("source", "line"), [("import torch\n1 / 0\n", 2), ("\n\ndef f(:\n", 3), ("import nowhere", 1)]
)
def test_load_plugin_names_file_and_line_of_a_broken_module(
    site: Path, source: str, line: int
) -> None:
    (site / "outside_broken.py").write_text(source)
    with pytest.raises(PluginError, match=rf"outside_broken.py:{line}: cannot be imported"):
        load_plugin("outside_broken:MyAttn")


def test_load_plugin_mended_loads() -> None:
    Path("bad.py").write_text("1 / 0")
    with pytest.raises(PluginError, match=r"bad.py:1: cannot be imported \(ZeroDivisionError"):
        load_plugin("bad.py:MyAttn")
    Path("bad.py").write_text(GOOD)
    assert load_plugin("bad.py:MyAttn") == "my_attn"


def test_load_plugin_refuses_two_of_one_name() -> None:
    Path("other.py").write_text(GOOD)
    load_plugin("my_attn.py:MyAttn")
    with pytest.raises(PluginError, match="MyAttn has the name 'my_attn' already"):
        load_plugin("other.py:MyAttn")


def test_a_stop_while_a_file_runs_is_no_error_of_the_file() -> None:
    Path("bad.py").write_text("raise KeyboardInterrupt")
    modules = set(sys.modules)
    with pytest.raises(KeyboardInterrupt):
        load_plugin("bad.py:MyAttn")
    assert not [m for m in sys.modules.keys() - modules if m.startswith("nasattn_plugin")]


def test_reserved_are_the_fields_of_an_attention() -> None:
    assert set(plugins.RESERVED) == set(AttentionSpec.model_fields)


# Entry points


def test_an_installed_plugin_is_found_by_its_name(site: Path) -> None:
    install(site, "outside_a", "far = outside_a:MyAttn\nbroken = outside_a:Nothing")
    assert "far" not in ATTENTIONS
    assert get_kind("far").load().__module__ == "outside_a"
    assert AttentionSpec(kind="far", gate="tanh").options["gate"] == "tanh"
    with pytest.raises(PluginError, match="outside_a: no class 'Nothing'; known: MyAttn, Plain"):
        get_kind("broken")


def test_all_options_asks_installed_plugins_for_what_is_unknown(site: Path) -> None:
    install(site, "outside_b", "far = outside_b:MyAttn")
    assert "temperature" not in all_options()
    assert "temperature" not in all_options(["groups"])
    assert "far" not in ATTENTIONS
    assert "temperature" in all_options(["temperature"])
    assert "far" in ATTENTIONS


def test_built_in_kinds_never_look_for_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("looked for")

    monkeypatch.setattr(plugins, "load_entry_point", refuse)
    monkeypatch.setattr(plugins, "entry_point_kinds", refuse)
    Path("own.yaml").write_text(kinds_only("[none, se, lgam]"))
    load_space("own.yaml")
    for kind, row in ATTENTIONS.items():
        assert get_kind(kind) is row
    assert AttentionSpec(kind="none", **{"groups": 4}).kind == "none"


def test_plugins_need_no_torch_until_one_is_loaded() -> None:
    code = (
        "import sys; from nasattn.attention.plugins import load_plugin\n"
        "from nasattn.attention.table import get_kind\n"
        "get_kind('se')\n"
        "try: get_kind('far')\n"
        "except ValueError as e: assert 'unknown' in str(e)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_two_installed_plugins_of_one_name_are_refused(site: Path) -> None:
    install(site, "outside_c", "far = outside_c:MyAttn")
    install(site, "outside_d", "far = outside_d:MyAttn")
    with pytest.raises(PluginError, match=r"two .* outside_c:MyAttn and outside_d:MyAttn"):
        get_kind("far")


@pytest.mark.parametrize(
    ("entry_point", "message"),
    [
        ("far = outside_e", "'outside_e': must be FILE.py:CLASS or PACKAGE.MODULE:CLASS"),
        ("far = my_attn.py:MyAttn", "no module 'my_attn' is installed"),  # a file is not run
        ("far-off = outside_e:MyAttn", "plain identifier, is 'far-off'"),
        ("none = outside_e:MyAttn", "'none' is a built-in kind"),
    ],
)
def test_an_installed_plugin_is_refused(site: Path, entry_point: str, message: str) -> None:
    install(site, "outside_e", entry_point)
    with pytest.raises(PluginError, match=message):
        get_kind(entry_point.partition(" ")[0])


@pytest.mark.parametrize("kind", ["my_attn", 3, None, ["se"]])
def test_an_unknown_kind_may_be_that_of_a_plugin(kind: object) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown attention .*needs --plugin FILE.py:CLASS"):
        get_kind(kind)


# What its code does wrong when it is built or called


def broken(init: str = "", forward: str = "return x") -> str:
    """A file of a class Attn with a statement of its own at the end of either function."""
    return (
        "import sys\nfrom torch import nn\n"
        f"class Attn(nn.Module):\n    def __init__(self, channels):\n        super().__init__()\n"
        f"        {init}\n    def forward(self, x):\n        {forward}\n"
    )


BAD_BUILDS = {  # what the constructor does -> in the message
    "raise KeyError(3)": r"\(KeyError: 3\)",
    "raise TypeError('no\\ngo')": r"\(TypeError: no\)",
    "raise ValueError": r"\(ValueError\)",
    "channels.deep": r"\(AttributeError: 'int' object has no attribute 'deep'\)",
    "sys.exit(0)": r"\(SystemExit: 0\)",
    "sys.exit()": r"\(SystemExit\)",
    "raise type('E', (BaseException,), {})('x')": r"\(E: x\)",
    "vars(self).clear()": r"\(TypeError: it does not call super\(\).__init__\(\)\)",
}


@pytest.mark.parametrize(("init", "message"), BAD_BUILDS.items(), ids=BAD_BUILDS)
def test_build_attention_says_what_a_plugin_raises(init: str, message: str) -> None:
    Path("bad.py").write_text(broken(init or "pass"))
    load_plugin("bad.py:Attn")
    with pytest.raises(PluginError, match=f"^plug-in bad.py:Attn: cannot be built {message}$"):
        build_attention("attn", 8)


BAD_CALLS = {
    "return x, x": "forward must return a tensor, is tuple",
    "pass": "forward must return a tensor, is NoneType",
    "sys.exit(0)": r"forward ends the process \(SystemExit: 0\)",
    "raise type('E', (BaseException,), {})": r"forward ends the process \(E\)",
}


@pytest.mark.parametrize(("forward", "message"), BAD_CALLS.items(), ids=BAD_CALLS)
def test_a_plugin_whose_forward_no_network_can_use(forward: str, message: str) -> None:
    Path("bad.py").write_text(broken("pass", forward))
    load_plugin("bad.py:Attn")
    with pytest.raises(PluginError, match=f"^plug-in bad.py:Attn: {message}$"):
        build_attention("attn", 8)(torch.zeros(1, 8, 2, 2))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ArchitectureError])
def test_what_a_plugin_is_not_to_blame_for_passes(error: type[BaseException]) -> None:
    source = broken(f"raise {error.__name__}")
    Path("bad.py").write_text(f"from nasattn.errors import ArchitectureError\n{source}")
    load_plugin("bad.py:Attn")
    with pytest.raises(error):
        build_attention("attn", 8)


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "RuntimeError", "KeyError"])
def test_an_exception_of_a_plugins_forward_passes(error: str) -> None:
    Path("bad.py").write_text(broken("pass", f"raise {error}"))
    load_plugin("bad.py:Attn")
    with pytest.raises((KeyboardInterrupt, RuntimeError, KeyError)) as caught:
        build_attention("attn", 8)(torch.zeros(1, 8, 2, 2))
    assert caught.typename == error


@pytest.mark.parametrize("copy", [deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_plugins_module_can_be_copied(copy: Callable[[nn.Module], nn.Module]) -> None:
    load_plugin("my_attn.py:MyAttn")
    built = build_attention("my_attn", 8)
    x = torch.randn(2, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    other = copy(built)
    assert torch.equal(other(x), built(x))
    assert other.state_dict().keys() == {"mix.weight", "mix.bias"}


# In networks and spaces


def kinds_only(kinds: str) -> str:
    """The space without the plug-in's options."""
    lines = SPACE.replace("KINDS", kinds).splitlines()
    return "\n".join(x for x in lines if "temperature" not in x and "gate" not in x)


def test_a_space_with_a_plugin_decodes_encodes_and_builds() -> None:
    load_plugin("my_attn.py:MyAttn")
    Path("own.yaml").write_text(SPACE.replace("KINDS", "[none, se, my_attn]"))
    space = load_space("own.yaml")
    assert {p.name for p in space.free} >= {"stages.0.attention.gate", "stages.1.attention.gate"}
    space_contract(space)
    params = {
        "stages.0.attention.kind": "my_attn",
        "stages.0.attention.gate": "tanh",
        "stages.0.attention.temperature": 1.0,
        "stages.1.attention.kind": "se",
        "stages.*.kernel": 3,
    }
    arch = space.decode(params)
    assert arch.stages[0].attention.model_extra == {"gate": "tanh"}  # 1.0 is the default
    assert parse_architecture(arch.model_dump()).arch_id == arch.arch_id
    model = build_model(arch, num_classes=3)
    assert sum(type(m).__name__ == "MyAttn" for m in model.modules()) == 2  # one a block
    assert count_cost(model, resolution=16).uncounted == ()


def test_a_space_with_a_plugin_that_is_not_loaded_says_so() -> None:
    Path("own.yaml").write_text(SPACE.replace("KINDS", "[none, my_attn]"))
    with pytest.raises(SpaceError, match="temperature"):
        load_space("own.yaml")
    Path("own.yaml").write_text(kinds_only("[none, my_attn]"))
    with pytest.raises(SpaceError, match=r"unknown attention 'my_attn'; .*needs --plugin"):
        load_space("own.yaml")


def test_an_installed_plugin_stands_in_a_space(site: Path) -> None:
    install(site, "outside_f", "far = outside_f:MyAttn")
    assert AttentionSpec(kind="none", temperature=3).options == {}
    Path("own.yaml").write_text(SPACE.replace("KINDS", "[none, far]"))
    space_contract(load_space("own.yaml"), n=5)


def test_groups_of_a_plugin_divide_the_channels() -> None:
    load_plugin("my_attn.py:MyAttn")
    stage = {"depth": 1, "width": 8, "attention": {"kind": "my_attn", "groups": 3}}
    with pytest.raises(ArchitectureError, match="groups: 3 does not divide the 8 channels"):
        parse_architecture({"stem": {"width": 8}, "stages": [stage]})


# The contract


class Fourier(nn.Module):
    """Its operators have no rule in the counter."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(torch.fft.rfft2(x).abs().mean((1, 2, 3), keepdim=True))


class Scaled(nn.Module):
    """No ONNX operator does what it does."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * torch.special.erfcx(x.abs())
        return y


class OneMap(nn.Module):
    """Fails on every map but the first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Frozen(nn.Module):
    """Holds what it saw while it was traced for good."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x[:1].sum().item() > 0 else x * 3


class Batch(nn.Module):
    """Holds for good how many pictures there were."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.ones(len(x), 1, 1, 1)


class Long(nn.Module):
    """Cannot be built, and says so in many words."""

    def __init__(self, channels: int) -> None:
        raise ValueError(f"{'x' * 300}\nand more")


class Pair(nn.Module):
    """Gives more than one value."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Leaves(nn.Module):
    """Ends the process."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        sys.exit(0)


class Skips(nn.Module):
    """Says that it need not be checked."""

    def __init__(self, channels: int) -> None:
        raise SkipTest("not today")


class Strict(nn.Module):
    """Asserts what does not hold."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        assert channels > 16


def test_check_attention_passes_a_built_in_kind() -> None:
    done = list(check_attention(lambda channels: build_attention("se", channels), [16]))
    assert [d.name for d in done] == [*ATTENTION_CHECKS, *EXPORT_CHECKS]
    assert {(d.outcome, d.why) for d in done} == {("passed", "")}


CLOSED = {  # what a module of one width only, or that cannot be built, fails
    *ATTENTION_CHECKS,
    *EXPORT_CHECKS,
}


@pytest.mark.parametrize(
    ("build", "failed", "why"),
    [
        (nn.BatchNorm2d, set(), "^$"),
        (
            Fourier,
            {"every operator can be counted", "exports to ONNX"},
            "16 channels, map 8x8: no rule counts aten._fft_r2c$",
        ),
        (Scaled, {"exports to ONNX"}, "map 8x8: UnsupportedOperatorError: .*special_erfcx"),
        (Frozen, {"exports to ONNX"}, "16 channels, map 8x8: ONNX gives other values$"),
        (Batch, {"exports to ONNX"}, "map 8x8: ONNX of 4 pictures does not run with 3 "),
        (lambda c: nn.Conv2d(c, c, 1, stride=2), {"the shape stays"}, r"shape \(4, 16, 4, 4\)"),
        (
            lambda c: nn.ReLU(inplace=True),
            {"the input is left as it was", "gradients reach the input and every parameter"},
            "map 8x8: input is changed in place in training mode$",
        ),
        (OneMap, CLOSED, "16 channels, map 7x7: RuntimeError: The size of tensor a"),
        (
            Pair,
            CLOSED - {"the input is left as it was", "every operator can be counted"},
            "16 channels, map 8x8: AttributeError: 'tuple' object has no attribute 'shape'$",
        ),
        (Strict, CLOSED, "^16 channels, map 8x8: AssertionError(: |$)"),
        (Leaves, CLOSED, "^16 channels, map 8x8: SystemExit: 0$"),
        (Skips, CLOSED, "^16 channels, map 8x8: SkipTest: not today$"),
        (Long, CLOSED, "^16 channels, map 8x8: ValueError: x{200}$"),
    ],
)
def test_check_attention_says_what_fails(
    build: Callable[[int], nn.Module],
    failed: set[str],
    why: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    done = list(check_attention(build, [16, 24]))
    assert {d.name for d in done if d.outcome == "failed"} == failed
    assert re.search(why, next((d.why for d in done if d.outcome == "failed"), ""))
    assert capfd.readouterr() == ("", "")
    if failed - EXPORT_CHECKS.keys():
        first = BaseException if failed == CLOSED or build is Pair else AssertionError
        with pytest.raises(first):
            attention_contract(build, [16, 24])
    else:
        attention_contract(build, [16, 24])


def test_check_attention_leaves_out_onnx_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasattn.testing.find_spec", lambda name: None)
    *_, last = check_attention(nn.BatchNorm2d, [16])
    assert last == Checked("exports to ONNX", "skipped", "onnx is not installed")


def test_check_attention_leaves_the_random_state() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(check_attention(lambda channels: build_attention("se", channels), [16]))
    assert torch.equal(torch.get_rng_state(), before)


# The commands

BROKEN = """
import torch
from torch import nn


class Broken(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return x.relu_()
"""


def test_plugin_test_passes_a_good_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, "plugin", "test", "my_attn.py:MyAttn") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "my_attn: Channel gate from the mean of each map."
    assert lines[1].startswith("options: groups=4 bias=True steps=0 temperature=1.0 gate=sigmoid")
    assert lines[2] == "channels: 16, 24, 96"
    checks = [f"passed  {name}" for name in (*ATTENTION_CHECKS, *EXPORT_CHECKS)]
    assert lines[4:] == [*checks, "", "my_attn keeps the contract: 10 passed"]


def test_plugin_test_takes_widths_that_groups_divide(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("five.py").write_text(GOOD.replace("groups: int = 4", "groups: int = 5"))
    assert nasattn(monkeypatch, "plugin", "test", "five.py:MyAttn") == 0
    assert "channels: 80, 120, 480\n" in capsys.readouterr().out


def test_plugin_test_says_everything_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.py").write_text(BROKEN)
    assert nasattn(monkeypatch, "plugin", "test", "broken.py:Broken") == 1
    captured = capsys.readouterr()
    assert "broken: broken.py:Broken\noptions: none\n" in captured.out
    assert (
        "failed  the input is left as it was: "
        "16 channels, map 8x8: input is changed in place in training mode\n"
    ) in captured.out
    assert "failed  gradients reach the input and every parameter: " in captured.out
    assert captured.out.endswith("\nbroken breaks the contract: 8 passed, 2 failed\n")
    assert captured.err == ""


def test_plugin_test_says_one_reason_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.py").write_text(BROKEN.replace("torch.ones(channels)", "torch.ones(None)"))
    assert nasattn(monkeypatch, "plugin", "test", "broken.py:Broken") == 1
    out = capsys.readouterr().out
    assert out.count("16 channels, map 8x8: TypeError: ") == 1
    assert out.count(": as above\n") == 9


ENDS = {  # a plug-in -> the reason that `plugin test` gives, the line of `show` and `train`
    "exit when built": (
        broken("sys.exit(0)"),
        "SystemExit: 0",
        "plug-in bad.py:Attn: cannot be built (SystemExit: 0)",
    ),
    "exit when called": (
        broken("pass", "sys.exit(0)"),
        "SystemExit: 0",
        "plug-in bad.py:Attn: forward ends the process (SystemExit: 0)",
    ),
    "key": (
        broken("raise KeyError('k')"),
        "KeyError: 'k'",
        "plug-in bad.py:Attn: cannot be built (KeyError: 'k')",
    ),
    "no tensor": (
        broken("pass", "pass"),
        "plug-in bad.py:Attn: forward must return a tensor, is NoneType",
        "plug-in bad.py:Attn: forward must return a tensor, is NoneType",
    ),
}


@pytest.mark.parametrize(("source", "reason", "line"), ENDS.values(), ids=ENDS)
def test_a_plugin_never_ends_a_command_in_silence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    reason: str,
    line: str,
) -> None:
    Path("bad.py").write_text(source)
    stage = '{"depth": 1, "width": 8, "attention": {"kind": "attn"}}'
    Path("net.json").write_text(f'{{"stem": {{"width": 8}}, "stages": [{stage}]}}')
    assert nasattn(monkeypatch, "plugin", "test", "bad.py:Attn") == 1
    captured = capsys.readouterr()
    assert f"failed  the shape stays: 16 channels, map 8x8: {reason}\n" in captured.out
    assert captured.out.endswith("\nattn breaks the contract: 10 failed\n")
    assert captured.err == ""
    training = ["train", "net.json", "--resolution", "8", "--epochs", "1"]
    for command in (["show", "net.json"], training):
        assert nasattn(monkeypatch, *command, "--plugin", "bad.py:Attn") == 2
        err = capsys.readouterr().err
        assert err.startswith("nasattn: ")
        assert err.count("\n") == 1
        assert line in err
    assert not Path("runs").exists()


def test_plugin_list_shows_built_in_kinds_and_plugins(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "outside_g", "far = outside_g:MyAttn\nbroken = outside_g:Nothing")
    assert nasattn(monkeypatch, "plugin", "list", "--plugin", "my_attn.py:Plain") == 0
    out = capsys.readouterr().out
    first_words = [line.split()[0] for line in out.splitlines() if line[1:2].strip()]
    assert [w for w in first_words if w in ATTENTIONS] == list(ATTENTIONS)
    assert "plain" in ATTENTIONS
    assert "far" in ATTENTIONS
    *table, broken = out.splitlines()
    assert max(map(len, table)) <= 80
    assert broken.startswith("plug-in broken cannot be loaded: outside_g: no class 'Nothing'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plugin", "test", "nowhere.py:A"], "nowhere.py: cannot be read (No such file"),
        (["plugin", "test", "bad.py:A"], "bad.py:2: cannot be imported (ZeroDivisionError: div"),
        (["plugin", "test", "see"], "unknown attention 'see'; did you mean 'se'?"),
        (["plugin", "list", "--plugin", "pipe.py:A"], "pipe.py: cannot be read (not a regular"),
        (["plugin", "list", "--plugin", "my_attn.py:A"], "my_attn.py: no class 'A'; known: "),
        (["plugin", "test"], "Missing argument"),
        (["plugin", "lists"], "No such command 'lists'"),
        (["plugin", "list", "--plugin", "bad"], "'bad': must be FILE.py:CLASS or"),
        (["show", "lam", "--plugin", "bad.py:A"], "bad.py:2: cannot be imported"),
        (["search", "--plugin", "my_attn.py:MyAtn"], "no class 'MyAtn'; did you mean 'MyAttn'?"),
        (["search", "--space", "own.yaml"], "unknown attention 'my_attn'; known: "),
    ],
)
def test_bad_input_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    Path("bad.py").write_text("\n1 / 0\n")
    Path("own.yaml").write_text(kinds_only("[my_attn]"))
    os.mkfifo("pipe.py")
    assert_refused(monkeypatch, capsys, arguments, message)


def test_no_plugin_command_shows_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, "plugin") == 0
    assert "Check that a module fits" in capsys.readouterr().out


def test_a_search_over_a_plugin_and_its_network_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.yaml").write_text(SPACE.replace("KINDS", "[my_attn]"))
    before, modules = dict(ATTENTIONS), set(sys.modules)
    arguments = ["search", "--space", "own.yaml", "--resolution", "8", "--objective", "macs"]
    arguments += ["--trials", "1", "--sampler", "random", "--plugin", "my_attn.py:MyAttn"]
    assert nasattn(monkeypatch, *arguments) == 0
    assert "my_attn" in capsys.readouterr().out
    (network,) = Path("runs/own-digits/architectures").glob("*.json")
    forget_plugins(before, {}, modules)
    assert nasattn(monkeypatch, "show", str(network)) == 2
    assert "unknown attention 'my_attn'; known: bam, " in capsys.readouterr().err
    assert nasattn(monkeypatch, "show", str(network), "--plugin", "my_attn.py:MyAttn") == 0
    assert "my_attn before_add" in capsys.readouterr().out


def test_a_search_does_not_go_on_with_other_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.yaml").write_text(SPACE.replace("KINDS", "[my_attn]"))
    rows, modules = dict(ATTENTIONS), set(sys.modules)
    arguments = ["search", "--space", "own.yaml", "--resolution", "8", "--objective", "macs"]
    arguments += ["--trials", "1", "--sampler", "random", "--plugin", "my_attn.py:MyAttn"]
    assert nasattn(monkeypatch, *arguments) == 0
    forget_plugins(rows, {}, modules)
    Path("my_attn.py").write_text(GOOD + "# another version\n", encoding="utf-8")
    assert nasattn(monkeypatch, *arguments) == 2
    assert "settings differ: plugins.my_attn" in capsys.readouterr().err
