"""nni_space_file: a search space as a Python file, in which it is a model space of NNI 3.0."""

import json
from collections.abc import Iterator
from importlib.metadata import version

from nasattn.errors import SpaceError
from nasattn.exchange.nni_choices import shortcut
from nasattn.space import Parameter, SearchSpace
from nasattn.spec import parse

# Of a space's own text only literals get into the file, as `ascii` writes them: nothing of it can
# become code.
TEMPLATE = """\
# The networks of nasattn's search space {name} as a model space of NNI 3.0.
# Written by nasattn {version}. A sample of NNI is a network of nasattn, with the same arch_id:
#     Networks().random().architecture.arch_id
{constraints}
import nni
from nni.mutable import MutableDict, ensure_frozen
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import model_context

from nasattn.exchange.nni_choices import as_params, buildable
from nasattn.exchange.nni_library import mend_locks
from nasattn.exchange.nni_space_file import read_space
from nasattn.model import build_model

mend_locks()  # for an experiment of NNI's, beside a filelock of this time

SPACE = read_space(
{data}
)

# A choice that means nothing beside the others is made all the same, and changes nothing.
CHOICES = {{
{choices}
}}


class Networks(ModelSpace):
    \"\"\"Networks for so many classes, and pictures of a resolution where it is given.\"\"\"

    def __init__(self, num_classes=10, resolution=None):
        super().__init__()
        self.pictures = num_classes, resolution
        choices = MutableDict({{**CHOICES, "buildable": buildable(SPACE)}})
        self.add_mutable(choices)
        self.architecture = SPACE.decode(as_params(SPACE, ensure_frozen(choices)))
        fitting = self.architecture.at_resolution(resolution) if resolution else self.architecture
        self.network = build_model(fitting, num_classes)

    def forward(self, x):
        return self.network(x)

    def freeze(self, sample):
        self.validate(sample)
        with model_context(sample):
            return Networks(*self.pictures)
"""


def nni_space_file(space: SearchSpace) -> str:
    """The text of the file. It imports NNI and nasattn; to write it needs no NNI."""
    data = json.dumps(space.model_dump(mode="json"), indent=1)
    return TEMPLATE.format(
        name=ascii(space.name),
        version=version("nasattn"),
        constraints="".join(f"# {line}\n" for line in _constraints(space)),
        data="\n".join(f"    {line!a}" for line in data.splitlines(keepends=True)),
        choices="\n".join(f"    {p.name!a}: {_call(p)}," for p in space.free),
    )


def read_space(text: str) -> SearchSpace:
    """The space that a file holds as JSON; raises SpaceError."""
    try:
        data = json.loads(text)
    except ValueError as e:
        raise SpaceError(f"the space in this file is no JSON: {e}") from e
    return parse(SearchSpace, data, "the space in this file", SpaceError)


def _constraints(space: SearchSpace) -> Iterator[str]:
    if not space.constraints:
        yield "The space has no limits."
        return
    yield "NNI does not know the limits of the space, which a search of nasattn keeps to:"
    for text in space.constraints:
        yield f"    {text!a}"


def _call(parameter: Parameter) -> str:
    name, arguments = shortcut(parameter.distribution)
    return f"nni.{name}({', '.join(map(ascii, (parameter.name, *arguments)))})"
