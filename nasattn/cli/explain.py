"""`nasattn explain`: where networks look in some pictures, and whether their maps matter."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from nasattn.cli.data import load_with_progress, show_skipped
from nasattn.cli.evaluate import check_file
from nasattn.cli.explain_networks import (
    Choice,
    Subject,
    choose_normalise,
    class_index,
    is_own,
    labels,
    named_subject,
    own_subject,
)
from nasattn.cli.explain_pictures import (
    PictureFile,
    decode,
    folder_classes,
    list_pictures,
    sample,
)
from nasattn.cli.explain_results import plain, show
from nasattn.cli.folders import check_target, write_result
from nasattn.cli.machine import plain_memory_errors
from nasattn.cli.options import channels
from nasattn.data import ImageData
from nasattn.data.augment import Normalise
from nasattn.errors import EvaluationError, StudyError, UnknownNameError
from nasattn.evaluate import check_device
from nasattn.explain import Explained, explain
from nasattn.files import write_bytes
from nasattn.report.explanation_sheet import Block, Row, draw_sheet, to_png
from nasattn.spec import MAX_RESOLUTION, MIN_RESOLUTION
from nasattn.tensor_file import read_tensors
from nasattn.train.loop import to_tensors
from nasattn.weights import Facts
from nasattn.zoo import ZOO

MOST_ROWS = 16  # pictures on the sheet


@dataclass(frozen=True, eq=False)
class Chosen:
    """The pictures, uint8 (N, 3, R, R) by resolution, and what is known of them.

    `classes` are those of a data set, or of class folders; none where there are no such.
    """

    rows: tuple[Row, ...]
    images: dict[int, Tensor]
    classes: tuple[str, ...]


@plain_memory_errors("choose a lower --n or --resolution, or a smaller network")
def explain_command(
    targets: Sequence[str], choice: Choice, *, out: Path, json_file: Path | None, cache_dir: Path
) -> None:
    """Explain the pictures by every network among the targets; write a sheet."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    networks, places = sort_targets(targets, choice)
    check(choice, networks, places)
    for path, other in ((out, json_file), (json_file, out)):
        check_file(path, *networks, *places, *choice.init, choice.data, other)
    if out.suffix.lower() != ".png":
        raise StudyError(f"--out: must end in .png, is {str(out)!r}")
    files = list_pictures(places)
    for path in filter(None, (out, json_file)):
        check_target(path, *(file.path for file in files))
    data = load_set(console, choice, networks, cache_dir)
    inits = iter(choice.init)  # one for each network without weights of its own
    subjects = [
        own_subject(name, choice)
        if is_own(name)
        else named_subject(name, next(inits), choice, data, cache_dir)
        for name in networks
    ]
    resolutions = sorted({one.resolution for one in subjects})
    if files:
        chosen = from_files(console, files, choice, resolutions)
    else:
        chosen = from_data(console, choice, resolutions, cache_dir)
    names = labels(subjects, networks)
    blocks = []
    for one, name in zip(subjects, names, strict=True):
        known = class_names(one, data, chosen)
        target = class_index(choice.class_name, known, name)
        normalise = choose_normalise(choice, one, data)
        model = one.model.to(choice.device)
        pictures = chosen.images[one.resolution]
        found = explain_with_progress(console, name, model, pictures, normalise, choice, target)
        blocks.append(Block(name, known, found))
    rows = [truthful(row, blocks) for row in chosen.rows]
    show(console, rows, blocks)
    write_sheet(out, rows, blocks)
    written = [str(out)]
    if json_file is not None:
        write_result(json_file, json.dumps(plain(rows, blocks), indent=2) + "\n")
        written.append(str(json_file))
    console.print(f"\nwritten: {', '.join(written)}{sheet_words(len(rows))}")


def sort_targets(targets: Sequence[str], choice: Choice) -> tuple[list[str], list[str]]:
    """Networks (.safetensors, .json, names of the zoo), and the rest: pictures and folders."""
    networks = [target for target in targets if is_network(target)]
    places = [target for target in targets if not is_network(target)] + list(choice.pictures)
    for place in places:
        if not is_there(place):
            if Path(place).suffix or "/" in place:
                raise StudyError(f"{place}: there is no such picture or folder")
            raise UnknownNameError("network, picture or folder", place, ZOO)
    return networks, places


def is_there(place: str) -> bool:
    try:
        return place != "" and Path(place).expanduser().exists()
    except (OSError, RuntimeError):  # a name that no file can have, an unknown ~user
        return False


def is_network(target: str) -> bool:
    return target in ZOO or Path(target).suffix.lower() in (".safetensors", ".json")


def check(choice: Choice, networks: Sequence[str], places: Sequence[str]) -> None:
    """StudyError for options that are not allowed, or not together."""
    if not networks:
        raise StudyError("no network: name a .safetensors file, or a network with --init FILE")
    if not places and choice.data is None:
        raise StudyError("no picture: name picture files or folders, or a data set with --data")
    named = [name for name in networks if not is_own(name)]
    if len(choice.init) != len(named):
        raise StudyError(
            f"--init: must be given once for each network that is no .safetensors file, in their"
            f" order; there are {len(named)}, and --init is given {len(choice.init)} times"
        )
    if choice.n < 1:
        raise StudyError(f"--n: must be 1 or more, is {choice.n}")
    if choice.seed < 0:
        raise StudyError(f"--seed: must be 0 or more, is {choice.seed}")
    low, high = MIN_RESOLUTION, MAX_RESOLUTION
    if choice.resolution is not None and not low <= choice.resolution <= high:
        raise StudyError(f"--resolution: must be {low} to {high}, is {choice.resolution}")
    if choice.threads < 1:
        raise StudyError(f"--threads: must be 1 or more, is {choice.threads}")
    if (choice.mean is None) != (choice.std is None):
        raise StudyError("--mean and --std: are given together or not at all")
    for option in ("mean", "std"):
        channels(option, getattr(choice, option))
    check_device(choice.device)
    torch.set_num_threads(choice.threads)


def load_set(
    console: Console, choice: Choice, networks: Sequence[str], cache_dir: Path
) -> ImageData | None:
    """The data set that is named, at the resolution of the first network."""
    if choice.data is None:
        return None
    own = [read_tensors(Path(n), Facts).facts.resolution for n in networks[:1] if is_own(n)]
    resolution = choice.resolution or next(iter(own), None)
    return load_with_progress(console, choice.data, resolution, cache_dir)


def class_names(one: Subject, data: ImageData | None, chosen: Chosen) -> tuple[str, ...]:
    """By the weights, else by the data or the class folders where the number is the same."""
    if one.classes is not None:
        return one.classes
    for known in (data.classes if data else (), chosen.classes):
        if len(known) == one.n_classes:
            return known
    return tuple(f"class {i}" for i in range(one.n_classes))


# The pictures


def from_files(
    console: Console, files: Sequence[PictureFile], choice: Choice, resolutions: Sequence[int]
) -> Chosen:
    """Picture files at every resolution that is needed."""
    picked = sample(files, choice.n, choice.seed)
    kept, images, skipped = decode(picked, resolutions)
    show_skipped(console, skipped)
    rows = tuple(Row(file.name, file.folder) for file in kept)
    return Chosen(rows, images, folder_classes(files))


def from_data(
    console: Console, choice: Choice, resolutions: Sequence[int], cache_dir: Path
) -> Chosen:
    """Some val-select pictures of a data set: the same ones at every resolution."""
    images = {}
    for resolution in resolutions:
        data = load_with_progress(console, str(choice.data), resolution, cache_dir)
        split = data.val_select
        rng = np.random.default_rng(choice.seed)
        picked = np.sort(rng.permutation(len(split))[: choice.n])
        images[resolution], truths = to_tensors(split.take(picked), "cpu")
    rows = tuple(
        Row(f"val-select {i}", data.classes[truth])
        for i, truth in zip(picked.tolist(), truths.tolist(), strict=True)
    )
    return Chosen(rows, images, data.classes)


def truthful(row: Row, blocks: Sequence[Block]) -> Row:
    """A row whose folder is no class of any network has no known class."""
    known = any(row.truth in block.classes for block in blocks)
    return row if known else Row(row.name)


def explain_with_progress(
    console: Console,
    name: str,
    model: nn.Module,
    pictures: Tensor,
    normalise: Normalise,
    choice: Choice,
    target: int | None,
) -> Explained:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{name}: deletion and insertion", total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return explain(
            model,
            pictures,
            normalise,
            target=target,
            attention=choice.attention,
            faithful=True,
            seed=choice.seed,
            progress=tell,
        )


def write_sheet(out: Path, rows: Sequence[Row], blocks: Sequence[Block]) -> None:
    data = to_png(draw_sheet(rows[:MOST_ROWS], blocks))
    check_target(out)
    try:
        write_bytes(out, data)
    except OSError as e:
        raise EvaluationError(f"{out}: cannot be written ({e.strerror or e})") from e


def sheet_words(n: int) -> str:
    return f" (the first {MOST_ROWS} of {n} pictures)" if n > MOST_ROWS else ""
