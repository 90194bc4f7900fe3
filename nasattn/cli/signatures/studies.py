"""Options of the commands that make studies."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nasattn.cli.options import (
    DEFAULT_STORAGE,
    Plugins,
    Storage,
    TuneEngine,
    cache_dir,
    decimal,
    name_of,
    number,
)

app = typer.Typer()


@app.command()
def search(
    space: Annotated[str | None, name_of("Search space: a name or a YAML file. [mobile]")] = None,
    study: Annotated[
        str | None, name_of("Study: a name or a YAML file. [digits: SPACE_quick]")
    ] = None,
    name: Annotated[str | None, name_of("The study's name in the storage. [SPACE-DATA]")] = None,
    data: Annotated[
        str | None, name_of("digits, cifar10, cifar100, a folder of class folders, or an .npz.")
    ] = None,
    resolution: Annotated[int | None, number("Side of the pictures, in pixels.")] = None,
    trials: Annotated[
        int | None, number("Networks to train, baselines and earlier ones included.")
    ] = None,
    budget: Annotated[
        str | None, name_of("Time for all of it instead, as 30m, 2h or 1h30m.", "TIME")
    ] = None,
    recipe: Annotated[str | None, name_of("Training recipe. [digits: quick, else steady]")] = None,
    epochs: Annotated[int | None, number("Epochs a network.")] = None,
    train_size: Annotated[
        int | None, number("Train on so many pictures only, of every class alike.")
    ] = None,
    evaluator: Annotated[
        str | None,
        name_of("train, or table:FILE (.csv, .parquet), where networks are looked up. [train]"),
    ] = None,
    sampler: Annotated[
        str | None, name_of("cost_aware, tpe, nsga2, nni_evolution or random. [cost_aware]")
    ] = None,
    early_stop: Annotated[
        str | None, name_of("none, or rank: stop what can no longer reach the front. [none]")
    ] = None,
    estimator: Annotated[
        str | None,
        name_of("Asked before each training, for --early-stop: naswot+macs, ... [none]", "A+B"),
    ] = None,
    seed: Annotated[int | None, number("Seed of proposals, weights and batches. [0]")] = None,
    seeds: Annotated[
        int | None, number("Fresh seeds over which the best are trained again; 0: none. [3]")
    ] = None,
    finalists: Annotated[
        int | None, number("How many of the best are. [TRIALS / 8, at least 6]")
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Let random search have the same budget, too.")
    ] = False,
    objective: Annotated[
        list[str] | None, name_of("top1, macs, params or latency_ms; repeatable.")
    ] = None,
    constraint: Annotated[
        list[str] | None, name_of("A limit such as 'macs<=120e6'; repeatable.", "LIMIT")
    ] = None,
    latency_model: Annotated[
        str | None, name_of("Screen by latencies foretold from it: of latency --fit.", "FILE")
    ] = None,
    device: Annotated[str | None, name_of("cpu, cuda, cuda:1, ... [cpu]")] = None,
    threads: Annotated[int | None, number("Processor threads to train with. [1]")] = None,
    tune_engine: TuneEngine = False,
    engine: Annotated[str | None, name_of("local or ray. [local]")] = None,
    n_jobs: Annotated[int | None, number("Networks at once. [1; ray: as many as fit]")] = None,
    pending: Annotated[
        int | None, number("Networks proposed and not told yet. [1, or 2 a job]")
    ] = None,
    trial_timeout: Annotated[
        str | None, name_of("An attempt that takes longer is ended.", "SECONDS")
    ] = None,
    max_retries: Annotated[
        int | None, number("A lost trial is redone so often, then it has failed. [2]")
    ] = None,
    cpus_per_trial: Annotated[str | None, name_of("Of Ray's, as 0.5. [--threads]", "X")] = None,
    gpus_per_trial: Annotated[str | None, name_of("Of Ray's, as 0.25. [0]", "X")] = None,
    address: Annotated[
        str | None, name_of("A Ray cluster that runs; auto finds it.", "HOST:PORT")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    out: Annotated[Path | None, name_of("Folder for results. [runs/STUDY]", "FOLDER")] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on with a study of this name and equal settings.")
    ] = True,
    json: Annotated[
        bool, typer.Option("--json", help="Print the front as JSON; all else to standard error.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Search a space for the networks with the best trade-offs."""
    from nasattn.cli.search import search_command

    changes: dict[str, Any] = {
        "space": space,
        "name": name,
        "evaluator": evaluator,
        "data": data,
        "resolution": resolution,
        "n_trials": trials,
        "budget": budget,
        "sampler": sampler,
        "early_stop": early_stop,
        "estimator": estimator,
        "seed": seed,
        "n_seeds": seeds,
        "finalists": finalists,
        "control": control or None,
        "objectives": objective or None,
        "constraints": constraint or None,
        "latency_model": latency_model,
        "device": device,
        "threads": threads,
        "engine": engine,
        "n_jobs": n_jobs,
        "pending": pending,
        "trial_timeout": decimal("--trial-timeout", trial_timeout),
        "max_retries": max_retries,
        "cpus_per_trial": decimal("--cpus-per-trial", cpus_per_trial),
        "gpus_per_trial": decimal("--gpus-per-trial", gpus_per_trial),
        "address": address,
    }
    training = {"name": recipe, "epochs": epochs, "train_size": train_size}
    changes["recipe"] = {k: v for k, v in training.items() if v is not None} or None
    changes = {key: value for key, value in changes.items() if value is not None}
    status = search_command(
        study,
        changes,
        storage=storage,
        out=out,
        resume=resume,
        as_json=json,
        cache_dir=cache_dir(),
        tune=tune_engine,
    )
    raise typer.Exit(status)


@app.command()
def ablate(
    base: Annotated[
        str | None,
        name_of("Network to take apart: a name, a JSON file, or trial:STUDY/17.", "NETWORK"),
    ] = None,
    study: Annotated[str | None, name_of("Ablation: a name or a YAML file. [BASE's]")] = None,
    ladder: Annotated[
        str | None, name_of("Parts put in one on the other, as papers do.", "PART,...")
    ] = None,
    factorial: Annotated[
        bool, typer.Option("--factorial", help="Every combination of the parts.")
    ] = False,
    fraction: Annotated[
        int | None, number("A factorial in so many arms: 8, 16, ...; it says what it mixes.")
    ] = None,
    swap: Annotated[
        list[str] | None, name_of("Other values: attention=se,eca; repeatable.", "FIELD=VALUE,...")
    ] = None,
    sweep: Annotated[
        list[str] | None, name_of("A curve: attention.groups=1,2,4.", "FIELD=VALUE,...")
    ] = None,
    networks: Annotated[
        str | None, name_of("Other networks to compare with it.", "NETWORK,...")
    ] = None,
    control: Annotated[
        bool, typer.Option(help="An arm as large as the base, without its parts.")
    ] = True,
    seeds: Annotated[int | None, number("Seeds an arm; six can be tested. [6]")] = None,
    sequential: Annotated[
        bool, typer.Option("--sequential", help="Stop a comparison where a look settles it.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what it takes and can show, and stop.")
    ] = False,
    spread: Annotated[str | None, name_of("For --plan: top1's spread over seeds.", "X")] = None,
    margin: Annotated[
        str | None, name_of("Smallest top1 difference that matters, as 0.005.", "X")
    ] = None,
    from_csv: Annotated[
        Path | None, name_of("Compare finished runs instead: arm,seed,value.", "FILE")
    ] = None,
    unit: Annotated[str | None, name_of("Of that file: fraction or percent.", "UNIT")] = None,
    data: Annotated[
        str | None, name_of("digits, cifar10, cifar100, a folder of class folders, or an .npz.")
    ] = None,
    resolution: Annotated[int | None, number("Side of the pictures, in pixels.")] = None,
    recipe: Annotated[str | None, name_of("Training recipe. [digits: quick, else steady]")] = None,
    epochs: Annotated[int | None, number("Epochs a run.")] = None,
    train_size: Annotated[
        int | None, number("Train on so many pictures only, of every class alike.")
    ] = None,
    name: Annotated[str | None, name_of("The study's name in the storage.")] = None,
    device: Annotated[str | None, name_of("cpu, cuda, cuda:1, ... [cpu]")] = None,
    threads: Annotated[int | None, number("Processor threads to train with. [1]")] = None,
    storage: Storage = DEFAULT_STORAGE,
    out: Annotated[Path | None, name_of("Folder for results. [runs/STUDY]", "FOLDER")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    plugin: Plugins = None,
) -> None:
    """Show which part of a network earns its keep, with paired seeds and statistics."""
    from nasattn.cli.ablate import Options, ablate_command, compare_command, fields

    options = Options(storage, out, plan, decimal("--spread", spread), json, cache_dir())
    training = {"name": recipe, "epochs": epochs, "train_size": train_size}
    changes: dict[str, Any] = {
        "ladder": None if ladder is None else ladder.split(","),
        "factorial": factorial or None,
        "fraction": fraction,
        "swap": fields("--swap", swap),
        "sweep": fields("--sweep", sweep),
        "networks": None if networks is None else dict.fromkeys(networks.split(","), "base"),
        "control": None if control else False,
        "sequential": sequential or None,
        "seeds": seeds,
        "margin": decimal("--margin", margin),
        "data": data,
        "resolution": resolution,
        "recipe": {k: v for k, v in training.items() if v is not None} or None,
        "name": name,
        "device": device,
        "threads": threads,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    if from_csv is not None:
        changes |= {} if study is None else {"study": study}
        raise typer.Exit(compare_command(from_csv, base, changes, unit, options))
    raise typer.Exit(ablate_command(base, study, changes, options))
