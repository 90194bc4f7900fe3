"""RuntimeSpec: a runtime with its threads, batch, device and target, in a line."""

import ipaddress
import os
import re
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from nasattn.errors import RuntimeMissingError, StudyError, shown
from nasattn.runtimes.table import Runtime, get_runtime, installed
from nasattn.spec import Spec, fields_of, parse

HERE = ""  # the target that is this machine
# A host that began with a hyphen would be an option of ssh.
ADDRESS = re.compile(
    r"ssh://(?P<user>\w[\w.-]*@)?((?P<name>\w[\w.-]*)|\[(?P<address>[0-9a-fA-F:.]+)\])"
    r"(:(?P<port>[0-9]{1,5}))?"
)


class RuntimeSpec(Spec):
    """On what a network is timed: `onnxruntime`, `torch:device=cuda`, `ncnn:target=ssh://pi`."""

    runtime: str = "torch"
    threads: Annotated[int, Field(gt=0, le=1024)] = 1
    batch: Annotated[int, Field(gt=0, le=4096)] = 1
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d{1,3})?)$")] = "cpu"
    target: str = HERE  # or ssh://[USER@]HOST[:PORT]
    python: Annotated[str, Field(pattern=r"^[\w./~+-]+$")] = "python3"  # of the target

    @field_validator("runtime")
    @classmethod
    def _known_runtime(cls, name: str) -> str:
        return get_runtime(name).name

    @field_validator("target")
    @classmethod
    def _readable_target(cls, target: str) -> str:
        if target == HERE:
            return target
        match = ADDRESS.fullmatch(target)
        if not match or not is_possible(match["address"], match["port"]):
            raise StudyError(f"{shown(target)}: must be like ssh://user@host or ssh://host:2222")
        return target

    @model_validator(mode="after")
    def _device_of_runtime(self) -> "RuntimeSpec":
        row, kind = self.row, self.device.split(":")[0]
        if kind not in row.devices:
            allowed = ", ".join(row.devices)
            raise StudyError(f"device {self.device!r}: {row.name} runs on {allowed} only")
        if self.batch > 1 and not row.batches:
            raise StudyError(f"batch {self.batch}: {row.name} takes one picture at a time")
        return self

    @property
    def row(self) -> Runtime:
        return get_runtime(self.runtime)

    def check(self) -> None:
        """Whether it can be used from here.

        Raises RuntimeMissingError, or StudyError for more threads than there are cores. Of another
        machine only a runner can tell.
        """
        row, here = self.row, self.target == HERE
        if packages := row.missing(runs=here):
            raise RuntimeMissingError(row.name, packages, row.install, installed())
        cores = os.cpu_count() or self.threads
        if here and self.threads > cores:
            raise StudyError(f"threads: must be 1 to {cores} on this machine, is {self.threads}")

    @property
    def host(self) -> list[str]:
        """The arguments of ssh that name the host, as it is written: it may be an alias."""
        match = ADDRESS.fullmatch(self.target)
        assert match
        port = ["-p", match["port"]] if match["port"] else []
        return [*port, "--", f"{match['user'] or ''}{match['address'] or match['name']}"]

    def __str__(self) -> str:
        """The short form that `parse_runtime` reads; what is at its default is left out."""
        options = self.model_dump(exclude_defaults=True, exclude={"runtime"})
        words = ",".join(f"{name}={value}" for name, value in options.items())
        return f"{self.runtime}:{words}" if words else self.runtime


def is_possible(address: str | None, port: str | None) -> bool:
    """Whether a machine can have such an IPv6 address, and such a port."""
    try:
        ipaddress.IPv6Address(address or "::1")
    except ValueError:
        return False
    return 0 < int(port or 22) < 65536


def parse_runtime(text: str, **defaults: Any) -> RuntimeSpec:
    """`RUNTIME[:OPTION=VALUE,...]`, what it leaves out as `defaults` have it.

    Raises StudyError or UnknownNameError.
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for word in filter(None, rest.split(",")):
        key, equals, value = word.partition("=")
        if not equals or key in options:
            known = ", ".join(f for f in fields_of(RuntimeSpec) if f != "runtime")
            raise StudyError(
                f"runtime {shown(text)}: {shown(word)} must be OPTION=VALUE, each once; "
                f"options: {known}"
            )
        options[key] = value
    if "runtime" in options:
        raise StudyError(f"runtime {shown(text)}: the runtime stands before the colon")
    fields = defaults | options | {"runtime": get_runtime(name).name}
    return parse(RuntimeSpec, fields, f"runtime {shown(text)}", StudyError)
