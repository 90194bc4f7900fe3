"""Weights to start from: our own files, plain .npz, torch's .pth, torchvision's own.

Only tensors are taken out of a file, and no file can run code: numpy reads without pickle, torch
with `weights_only`.
"""

import hashlib
import http.client
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasattn.data.archive import Damaged, read_arrays
from nasattn.data.augment import Normalise
from nasattn.data.named import quiet_download
from nasattn.errors import UnknownNameError, WeightsError
from nasattn.fit import check_values, is_counter
from nasattn.references import Reference
from nasattn.tensor_file import parse_metadata, read_safetensors
from nasattn.train.checkpoint import DAMAGE, load_values
from nasattn.weights import Facts
from nasattn.zoo import NamedNetwork

TORCHVISION = "torchvision"
NESTED = ("state_dict", "model", "model_state_dict", "net")  # where a .pth keeps its tensors


@dataclass(frozen=True, eq=False)
class Pretrained:
    """Tensors by name, in their file's order; and how their pictures were normalised, if known."""

    tensors: dict[str, Tensor]
    where: str
    normalise: Normalise | None = None

    @property
    def identity(self) -> str:
        """The name, and 12 hex digits of the sha256 over names, kinds, shapes and values."""
        digest = hashlib.sha256()
        for name, tensor in self.tensors.items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        return f"{Path(self.where).name} {digest.hexdigest()[:12]}"


def read_pretrained(source: str, network: NamedNetwork, cache_dir: Path) -> Pretrained:
    """Weights from a file, or `torchvision`'s for its network of this name, downloaded once.

    Raises WeightsError for what cannot be had or read, UnknownNameError for a network of the zoo
    that torchvision does not have.
    """
    if source == TORCHVISION:
        return from_torchvision(torchvision_name(network), cache_dir)
    path = Path(source).expanduser()
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise WeightsError(f"{source}: must be {TORCHVISION!r} or a file {', '.join(READERS)}")
    if not path.is_file():
        raise WeightsError(f"{source}: there is no such file")
    try:
        found = read(path)
    except OSError as e:
        raise WeightsError(f"{path}: cannot be read ({e.strerror or e})") from e
    return _checked(found)


def from_safetensors(path: Path) -> Pretrained:
    """Our own file, or another one of which only the tensors are known."""
    metadata, tensors = read_safetensors(path)
    ours = metadata.get("format") == Facts.format
    normalise = parse_metadata(metadata, Facts, str(path)).normalise if ours else None
    return Pretrained(tensors, str(path), normalise)


def from_npz(path: Path) -> Pretrained:
    """The arrays of numbers in an .npz file, under their names."""
    try:
        arrays = read_arrays(path, _names(path))
    except Damaged as e:
        raise WeightsError(f"{path}: {e}") from e
    numbers = {name: array for name, array in arrays.items() if array.dtype.kind in "fiu"}
    native = {n: a.astype(a.dtype.newbyteorder("="), copy=False) for n, a in numbers.items()}
    return Pretrained({n: torch.from_numpy(a) for n, a in native.items()}, str(path))


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, RuntimeError, LookupError, EOFError) as e:
        raise Damaged("not an .npz file, or a damaged one") from e


def from_torch(path: Path) -> Pretrained:
    """A state dict that torch saved, by itself or inside a checkpoint."""
    try:
        with warnings.catch_warnings():  # torch asks for a report where a pickle is not its own
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            held = load_values(path)
    except Damaged as e:
        raise WeightsError(f"{path}: {e}") from e
    return Pretrained(_state_dict(held), str(path))


def _state_dict(held: object) -> dict[str, Tensor]:
    """The tensors of a dict, or of the dict inside it that has a usual name."""
    if not isinstance(held, dict):
        return {}
    inner = next((held[k] for k in NESTED if isinstance(held.get(k), dict)), held)
    return {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}


def torchvision_name(network: NamedNetwork) -> str:
    """What torchvision calls a network: as we do, but for references that say otherwise.

    Raises WeightsError for the network of a file: its name says nothing of what it is.
    """
    if not network.in_zoo:
        raise WeightsError(
            f"{TORCHVISION!r} has weights for networks that the zoo names, not for that of a file"
            f" ({network.name}); --init takes a file, too"
        )
    plan = network.plan
    if isinstance(plan, Reference) and plan.target.startswith("torchvision."):
        return plan.target.rpartition(":")[2]
    return network.name


def from_torchvision(network: str, cache_dir: Path) -> Pretrained:
    """torchvision's default weights of a network, checked by their hash."""
    models = import_module("torchvision.models")  # slow to import
    if network not in (known := models.list_models(module=models)):
        raise UnknownNameError("network of torchvision", network, known)
    weights = models.get_model_weights(network).DEFAULT
    transforms = weights.transforms()
    try:
        with quiet_download():
            tensors: Mapping[str, Any] = weights.get_state_dict(
                model_dir=str(cache_dir / "torchvision"),
                progress=False,
                check_hash=True,
                weights_only=True,
            )
    except (http.client.HTTPException, *DAMAGE) as e:
        cause = getattr(e, "reason", e)
        reason = " ".join(str(getattr(cause, "strerror", None) or cause).split())
        raise WeightsError(
            f"torchvision's weights of {network} cannot be downloaded ({reason});"
            " --init takes a file, too"
        ) from e
    normalise = Normalise(tuple(transforms.mean), tuple(transforms.std))
    return Pretrained(_state_dict(dict(tensors)), f"{TORCHVISION}:{network}", normalise)


# By the ending of the file's name; a new kind of file is a function and a row.
READERS: dict[str, Callable[[Path], Pretrained]] = {
    ".safetensors": from_safetensors,
    ".npz": from_npz,
    ".pth": from_torch,
    ".pt": from_torch,
    ".th": from_torch,
}


def _checked(found: Pretrained) -> Pretrained:
    """Only what can be a weight: floats, and the counters beside them. At least one."""
    tensors = {
        name: tensor
        for name, tensor in found.tensors.items()
        if tensor.is_floating_point() or tensor.is_complex() or is_counter(name)
    }
    check_values(tensors, found.where)
    if not any(tensor.is_floating_point() for tensor in tensors.values()):
        raise WeightsError(f"{found.where}: holds no tensor of floats")
    return Pretrained(tensors, found.where, found.normalise)
