"""The house has one direction: no room imports one that stands above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nasattn"

# From the ground up; a module may import its own floor and those below. A name stands for all
# below it that has no line of its own.
FLOORS = [
    ["errors"],
    ["spec", "files", "library", "turns", "words", "exchange.nni_library"],
    ["runtimes"],
    ["ablation.results", "ablation.flips", "ablation.designs"],
    ["ablation.statistics"],
    ["ablation.factorial", "ablation.power", "ablation.sequential"],
    ["attention.widths"],
    ["attention.table", "attention.plugins", "attention", "blocks.table", "blocks"],
    ["parts", "distributions"],
    ["arch"],
    ["paths"],
    ["baselines", "objectives", "references"],
    ["space", "tables"],
    ["walk"],
    ["rows"],
    ["exchange"],
    ["attention.*"],
    ["runtimes.torch_eager", "runtimes.torch_compile"],
    ["layers"],
    ["blocks.*"],
    ["model", "shufflenet_v1", "fit", "compress.hints"],
    ["compress.narrow", "compress.fold"],
    ["initial"],
    ["bank"],
    ["cost", "data"],
    ["zoo"],
    ["train"],
    ["tensor_file"],
    ["weights"],
    ["pretrained"],
    ["explain", "deploy"],
    ["evaluate"],
    ["estimate"],
    ["search", "detect", "ablation", "compress"],
    ["estimate.bench", "estimate.ranking"],
    ["recommend", "steps", "road"],
    ["report"],
    ["testing"],
    ["cli"],
]
HEIGHT = {name: i for i, floor in enumerate(FLOORS) for name in floor}
# Each heavy library is imported in these places only.
ONLY = {
    "torchvision": ["data.named", "detect", "pretrained"],
    "pycocotools": ["detect.score"],
    "timm": ["references"],
    "torch_pruning": ["compress.graph"],
    "nni": [],  # by name alone, through exchange.nni_library
    "onnxruntime": ["runtimes.onnxruntime", "deploy.onnx_model"],
    "openvino": ["runtimes.openvino", "deploy.openvino_model"],
    "nncf": ["deploy.openvino_model"],
    "ai_edge_litert": ["runtimes.litert"],
    "ncnn": ["runtimes.ncnn"],
    "pnnx": ["runtimes.ncnn"],
    "MNN": ["runtimes.mnn"],
    "executorch": ["runtimes.executorch"],
    "scipy": [
        "ablation",
        "search.surrogate",
        "search.outlook",
        "search.improvement",
        "search.selection",
        "search.control",
        "cost.predictor",
        "cost.self_check",
    ],
    "moocore": ["search.fronts"],
    "ray": [
        "search.engines.ray_cluster",
        "search.engines.ray_gauge",
        "search.engines.ray_tune",
    ],
    "statsmodels": ["ablation"],
    "sklearn": ["data.named", "report.charts.importance"],
    "typer": ["cli"],
    "matplotlib": ["report"],
    "plotly": ["report.charts.plotly_chart"],
    "rich": ["cli"],
    "optuna_dashboard": ["cli.dashboard"],
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def height(module: str) -> int:
    if module in HEIGHT:
        return HEIGHT[module]
    room = module.split(".")[0]
    return HEIGHT.get(f"{room}.*", HEIGHT[room])


def imports(path: Path) -> set[str]:
    """Absolute names that a file imports when it is loaded or later, but not for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n for n in inside if (PACKAGE.parent / n.replace(".", "/")).exists()}
    return found


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py") if module_name(path)}


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_from_a_higher_floor(module: str) -> None:
    for name in imports(MODULES[module]):
        if name.startswith("nasattn."):
            imported = name.removeprefix("nasattn.")
            assert height(imported) <= height(module), f"{module} imports {imported}"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_stay_in_their_rooms(module: str) -> None:
    for name in imports(MODULES[module]):
        rooms = ONLY.get(name.split(".")[0], [module])
        assert any(module == r or module.startswith(f"{r}.") for r in rooms), f"{module}: {name}"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["search", "--help"], ["plugin", "test", "--help"], ["version"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from nasattn.cli import main\n"
        f"sys.argv = ['nasattn', *{arguments}]\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code\n"
        "heavy = {'torch', 'ray', 'nni', 'optuna', 'pandas', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
