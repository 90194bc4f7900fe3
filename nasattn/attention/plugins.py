"""Attention modules from outside: a class in a file, in a module, or behind an entry point.

A file that is named here is executed: it is the user's own code, named on the user's own command
line. No YAML or JSON file can name one.
"""

import errno
import hashlib
import importlib
import inspect
import keyword
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from pydantic import AllowInfNan, TypeAdapter, ValidationError, create_model

from nasattn.attention.table import ATTENTIONS, AttentionKind, Count
from nasattn.errors import NasattnError, PluginError, hint, shown
from nasattn.spec import Spec

if TYPE_CHECKING:
    from torch import nn

UNFIT = "cannot be a kind of attention"
GROUP = "nasattn.attention"  # of entry points
RESERVED = ("kind", "placement")  # fields of AttentionSpec: no option can be called so
OPTION_TYPES: dict[type, Any] = {
    bool: bool,
    int: int,
    float: Annotated[float, AllowInfNan(False)],  # a NaN would not even equal itself
}

STOPS = (KeyboardInterrupt, GeneratorExit)  # not the doing of a plug-in, whatever it runs
PLUGINS: dict[str, str] = {}  # the kinds that were loaded, each with its target as it was given


@dataclass(frozen=True, kw_only=True)
class PluginKind(AttentionKind):
    """A plug-in's row of ATTENTIONS, that says in one line what its code does wrong."""

    given: str  # the target as it was given

    def build(self, channels: int, options: Mapping[str, Any]) -> "nn.Module":
        """The module; raises PluginError where its constructor raises anything but MemoryError."""
        with _blamed(f"plug-in {self.given}: cannot be built"):
            module = super().build(channels, options)
            if "_modules" not in vars(module):
                raise TypeError("it does not call super().__init__()")
            return module


def load_plugin(target: str) -> str:
    """Make the class at `FILE.py:CLASS` or `PACKAGE.MODULE:CLASS` a row of ATTENTIONS.

    The class is built as Class(channels, *, option: type = default, ...): its signature gives the
    options, the first line of its docstring the source. The kind's name, which is returned, is
    its attribute `name` where it has one, else the class's name in snake case. A target that is
    given again is not loaded again. Raises PluginError in one line.
    """
    place, class_name = _split(target)
    module = _run_file(Path(place)) if place.endswith(".py") else _import_module(place)
    with _blamed(f"{target}: {UNFIT}"):
        cls = _find_class(module, target)
        own = getattr(cls, "name", None)
        kind = own if isinstance(own, str) else snake_case(class_name)
        _register(kind, target, module, cls)
    return kind


def load_entry_point(kind: str) -> None:
    """Load the installed plug-in of that name, where there is one; raises PluginError."""
    targets = {entry.value for entry in _installed(tuple(sys.path)).select(name=kind)}
    if len(targets) > 1:
        both = " and ".join(sorted(targets))
        raise PluginError(f"plug-in {kind!r}: two installed packages have it, {both}")
    for target in targets:
        module = _import_module(_split(target)[0])
        with _blamed(f"{target}: {UNFIT}"):
            _register(kind, target, module, _find_class(module, target))


def plugin_digests(text: str) -> dict[str, str]:
    """12 hex digits over the file of each loaded plug-in that some JSON names, by kind."""
    digests = {}
    for kind in (kind for kind in PLUGINS if f'"{kind}"' in text):
        file = sys.modules[ATTENTIONS[kind].target.split(":")[0]].__file__
        code = Path(file).read_bytes() if file else b""
        digests[kind] = hashlib.sha256(code).hexdigest()[:12]
    return digests


def entry_point_kinds() -> list[str]:
    """The names of the installed plug-ins; loads none of them."""
    return sorted(_installed(tuple(sys.path)).names)


@cache
def _installed(path: tuple[str, ...]) -> metadata.EntryPoints:
    """The entry points on a sys.path: a space may ask for an unknown kind many times."""
    return metadata.entry_points(group=GROUP)


def snake_case(name: str) -> str:
    """`my_attn` of `MyAttn`, `se_block2d` of `SEBlock2d`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _split(target: str) -> tuple[str, str]:
    """The place and the class of a target."""
    place, _, name = target.rpartition(":")
    if not place or not name.isidentifier():
        raise PluginError(f"plug-in {shown(target)}: must be FILE.py:CLASS or PACKAGE.MODULE:CLASS")
    return place, name


def _register(kind: str, target: str, module: ModuleType, cls: "type[nn.Module]") -> None:
    class_name = _split(target)[1]
    if not re.fullmatch(r"[A-Za-z_]\w*", kind, re.ASCII) or keyword.iskeyword(kind):
        raise PluginError(f"{target}: the kind's name must be a plain identifier, is {shown(kind)}")
    options = create_model(f"{class_name}Options", __base__=Spec, **_options(cls, target))
    if not isinstance(cls.__doc__, str | None):
        raise PluginError(f"{target}: the docstring must be text, is {shown(cls.__doc__)}")
    source = next(iter((cls.__doc__ or "").strip().splitlines()), target)
    row = PluginKind(f"{module.__name__}:{class_name}", options, source, given=target)
    if kind in PLUGINS and ATTENTIONS[kind].target != row.target:
        raise PluginError(f"{target}: plug-in {PLUGINS[kind]} has the name {kind!r} already")
    if kind not in PLUGINS and (kind in ATTENTIONS or kind == "none"):
        raise PluginError(
            f"{target}: {kind!r} is a built-in kind; give the plug-in a `name` of its own"
        )
    if kind not in PLUGINS:
        _guard_calls(cls, target)
        ATTENTIONS[kind] = row
        PLUGINS[kind] = target


@contextmanager
def _blamed(words: str) -> Iterator[None]:
    """Make what a plug-in's code raises, to end the process too, a PluginError in one line."""
    try:
        yield
    except (NasattnError, MemoryError, *STOPS):
        raise
    except BaseException as e:
        raise PluginError(f"{words} ({_words(e)})") from e


def _words(e: BaseException) -> str:
    """'KeyError: 3'; the name alone where the exception says nothing."""
    message = e.msg if isinstance(e, SyntaxError) else next(iter(str(e).strip().splitlines()), "")
    return f"{type(e).__name__}: {message[:200]}" if message else type(e).__name__


def _guard_calls(cls: "type[nn.Module]", target: str) -> None:
    """Make calls of a class's modules raise PluginError for what no network could go on with.

    That is no tensor, or the end of the process. Other exceptions pass: they may be of the
    pictures' size or of the memory, and else their traceback says more than a line.
    """
    from torch import Tensor

    call = cls.__call__

    @wraps(call)
    def guarded(self: "nn.Module", *args: Any, **kwargs: Any) -> Any:
        try:
            y = call(self, *args, **kwargs)
        except (Exception, *STOPS):
            raise
        except BaseException as e:
            raise PluginError(f"plug-in {target}: forward ends the process ({_words(e)})") from e
        if not isinstance(y, Tensor):
            what = type(y).__name__
            raise PluginError(f"plug-in {target}: forward must return a tensor, is {what}")
        return y

    # The class itself: a class made from it could not be pickled.
    cls.__call__ = guarded  # type: ignore[method-assign]


# From a target to a class


def _run_file(path: Path) -> ModuleType:
    """The module that a file makes; a file that was run already is not run again."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise OSError(errno.EINVAL, "not a regular file")
        source = path.read_bytes()
        full = str(path.resolve())
    except (OSError, ValueError) as e:
        raise PluginError(f"{path}: cannot be read ({getattr(e, 'strerror', None) or e})") from e
    name = f"nasattn_plugin_{hashlib.sha256(full.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = full
    sys.modules[name] = module  # where AttentionKind.load and pickle look for it
    try:
        exec(compile(source, full, "exec", dont_inherit=True), vars(module))
    except BaseException as e:
        del sys.modules[name]
        if isinstance(e, STOPS):
            raise
        raise PluginError(_cause(e, {full: str(path)})) from e
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except STOPS:
        raise
    except BaseException as e:
        if isinstance(e, ModuleNotFoundError) and f"{name}.".startswith(f"{e.name}."):
            raise PluginError(
                f"plug-in {name}: no module {e.name!r} is installed; a file is named FILE.py:CLASS"
            ) from e
        raise PluginError(_cause(e, {}, name)) from e


def _cause(e: BaseException, names: dict[str, str], place: str = "") -> str:
    """'file:line: what went wrong', the line being the last one in the file that was loaded."""
    machinery = (__file__, importlib.__file__)
    frames = [
        frame
        for frame in traceback.extract_tb(e.__traceback__)
        if frame.filename not in machinery and not frame.filename.startswith("<frozen ")
    ]
    file, line = next(iter(names), place), None
    if frames:
        file = frames[0].filename
        line = [frame.lineno for frame in frames if frame.filename == file][-1]
    elif isinstance(e, SyntaxError):
        file, line = e.filename or file, e.lineno
    where = f"{names.get(file, file)}:{line}" if line else names.get(file, file)
    return f"{where}: cannot be imported ({_words(e)})"


def _find_class(module: ModuleType, target: str) -> "type[nn.Module]":
    from torch import nn

    def is_one(value: object) -> bool:
        return isinstance(value, type) and issubclass(value, nn.Module) and value is not nn.Module

    place, name = _split(target)
    cls: type[nn.Module] | None = getattr(module, name, None)
    if cls is None:
        classes = [name for name, value in vars(module).items() if is_one(value)]
        known = hint(name, classes) if classes else "there is no torch.nn.Module in it"
        raise PluginError(f"{place}: no class {name!r}; {known}")
    if not is_one(cls):
        what = "another class" if isinstance(cls, type) else f"a {type(cls).__name__}"
        raise PluginError(f"{target}: must be a class of torch.nn.Module, is {what}")
    return cls


# From a class to its options


def _options(cls: "type[nn.Module]", where: str) -> dict[str, Any]:
    """Option -> (type, default), as the class's signature has them."""
    with _blamed(f"{where}: has no readable signature"):  # annotations may be code in strings
        signature = inspect.signature(cls, eval_str=True)
    first, options = None, list(signature.parameters.values())
    if options:
        first = options.pop(0).kind
    if first not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
        raise PluginError(
            f"{where}: must be built as {cls.__name__}(channels, *, option: type = default, ...), "
            f"is {cls.__name__}{signature}"
        )
    return {p.name: _option(p, f"{where}: option {p.name!r}") for p in options}


def _option(option: inspect.Parameter, where: str) -> tuple[Any, Any]:
    """The type and the default of one option; raises PluginError for what cannot be one."""
    name, default = option.name, option.default
    if option.kind not in (option.KEYWORD_ONLY, option.POSITIONAL_OR_KEYWORD):
        raise PluginError(f"{where}: options are written out one by one, not as {option}")
    if name in RESERVED or name.startswith(("_", "model_")) or hasattr(Spec, name):
        raise PluginError(f"{where}: no option can have this name")
    if option.annotation is option.empty:
        raise PluginError(f"{where}: has no type; write {name}: int = ..., or the like")
    if default is option.empty:
        raise PluginError(f"{where}: has no default")
    annotation = _option_type(option, where)
    try:
        return annotation, TypeAdapter(annotation).validate_python(default, strict=True)
    except ValidationError as e:
        reason = e.errors()[0]["msg"].replace("Input should be", "must be")
        raise PluginError(f"{where}: the default {reason}, is {shown(default)}") from e


def _option_type(option: inspect.Parameter, where: str) -> Any:
    annotation = option.annotation
    if option.name == "groups":  # they divide the channels
        if annotation is int:
            return Count
        raise PluginError(f"{where}: must be an int")
    if get_origin(annotation) is Literal and {type(v) for v in get_args(annotation)} <= {str, int}:
        return annotation
    if not isinstance(annotation, type) or annotation not in OPTION_TYPES:
        raise PluginError(
            f"{where}: must be a bool, int, float or a Literal of strings or whole numbers, "
            f"is {inspect.formatannotation(annotation)}"
        )
    return OPTION_TYPES[annotation]
