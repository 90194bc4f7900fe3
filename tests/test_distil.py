"""Distillation: the mixed loss by its formula, and `nasattn train --teacher` as a user types it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nasattn.arch import parse_architecture
from nasattn.data import load_data
from nasattn.data.augment import Normalise
from nasattn.errors import StudyError
from nasattn.model import build_model
from nasattn.tensor_file import read_tensors
from nasattn.train.attention_transfer import Maps, attention, attention_loss, watched
from nasattn.train.checkpoint import Checkpoint
from nasattn.train.distil import Distil, Teacher
from nasattn.train.loop import Epoch, train_model
from nasattn.train.recipe import RECIPES
from nasattn.weights import Facts
from nasattn.zoo import get_network, read_network
from tests.command import assert_refused, nasattn

TINY = {"stem": {"width": 4}, "stages": [{"depth": 1, "width": 8}]}
DROPPED = TINY | {"head": {"dropout": 0.3}}
TRAIN = ["train", "tiny.json", "--resolution", "8", "--train-size", "64", "--epochs", "2"]
TEACHER = "teacher/weights.safetensors"
PLAIN = Normalise((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(autouse=True)
def _here(here: Path) -> None:
    Path("tiny.json").write_text(json.dumps(TINY), encoding="utf-8")
    Path("other.json").write_text(json.dumps(DROPPED), encoding="utf-8")


class Says(nn.Module):
    """Answers the same logits (N, classes) to whatever it is shown; remembers what that was."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.seen, self.was_training = logits, torch.empty(0), True

    def forward(self, x: Tensor) -> Tensor:
        self.seen, self.was_training = x, self.training
        return self.logits


def softmax(logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    powers = np.exp(logits / temperature)
    found: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return found


def said(logits: NDArray[np.float64], normalise: Normalise = PLAIN) -> Teacher:
    return Teacher(Says(torch.from_numpy(logits)), normalise, "says")


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 1.0), (4.0, 0.9), (0.5, 0.25)])
@pytest.mark.parametrize("n_teachers", [1, 3])
def test_mix_is_the_formula_of_hinton(temperature: float, weight: float, n_teachers: int) -> None:
    rng = np.random.default_rng(0)
    student = rng.normal(size=(5, 4))
    each = rng.normal(size=(n_teachers, 5, 4))
    distil = Distil(tuple(said(logits) for logits in each), temperature, weight)
    mixed = distil.mix(torch.tensor(1.5), torch.from_numpy(student), torch.zeros(5, 3, 2, 2))
    p = np.mean([softmax(logits, temperature) for logits in each], axis=0)
    divergence = (p * (np.log(p) - np.log(softmax(student, temperature)))).sum(1).mean()
    expected = (1 - weight) * 1.5 + weight * temperature**2 * divergence
    assert mixed.item() == pytest.approx(expected, rel=1e-6)


def test_mix_shows_a_teacher_the_same_pictures_in_its_own_normalisation() -> None:
    teacher = said(np.zeros((2, 4)), Normalise((0.5, 0.25, 0.0), (0.5, 1.0, 2.0)))
    distil = Distil((teacher,))
    x = torch.rand(2, 3, 8, 8)
    logits = torch.zeros(2, 4, requires_grad=True)
    with distil.teaching(nn.Identity(), x) as mix:
        mix(torch.tensor(0.0), logits, x)
    assert isinstance(teacher.model, Says)
    assert not teacher.model.was_training
    expected = (x - torch.tensor([0.5, 0.25, 0]).view(3, 1, 1)) / torch.tensor(
        [0.5, 1.0, 2.0]
    ).view(3, 1, 1)
    assert torch.equal(teacher.model.seen, expected)


def test_mix_gives_no_gradient_to_the_teacher() -> None:
    weights = torch.zeros(2, 4, requires_grad=True)
    logits = torch.randn(2, 4, requires_grad=True)
    Distil((Teacher(Says(weights), PLAIN, ""),)).mix(
        logits.sum(), logits, torch.zeros(2, 3, 8, 8)
    ).backward()  # type: ignore[no-untyped-call]
    assert weights.grad is None
    assert logits.grad is not None


@pytest.mark.parametrize(
    ("temperature", "weight", "message"),
    [
        (0.0, 0.5, "temperature: must be above 0 and at most 1000, is 0"),
        (float("nan"), 0.5, "temperature: must be above 0"),
        (4.0, 1.5, "weight of distillation: must be from 0 to 1, is 1.5"),
        (4.0, -0.1, "must be from 0 to 1"),
        (4.0, float("nan"), "must be from 0 to 1"),
    ],
)
def test_distil_refuses_what_teaches_nothing(
    temperature: float, weight: float, message: str
) -> None:
    with pytest.raises(StudyError, match=message):
        Distil((said(np.zeros((1, 2))),), temperature, weight)
    with pytest.raises(StudyError, match="needs a teacher"):
        Distil(())


# Attention transfer


def attention_of(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Zagoruyko and Komodakis, section 3.1: F_sum^2, as a vector of length 1."""
    flat = (x**2).sum(1).reshape(len(x), -1)
    found: NDArray[np.float64] = flat / np.sqrt((flat**2).sum(1, keepdims=True))
    return found


def shown(*maps: NDArray[np.float64]) -> Maps:
    found = Maps()
    for one in maps:
        found.keep(nn.Identity(), (), torch.from_numpy(one))
    return found


def test_attention_loss_is_the_formula_of_zagoruyko() -> None:
    rng = np.random.default_rng(0)
    student = [rng.normal(size=(3, 4, 8, 8)), rng.normal(size=(3, 6, 4, 4))]
    teacher = [rng.normal(size=(3, 9, 8, 8)), rng.normal(size=(3, 2, 4, 4))]
    gaps = [attention_of(a) - attention_of(b) for a, b in zip(student, teacher, strict=True)]
    expected = sum(float((gap**2).sum(1).mean()) / 2 for gap in gaps)
    found = attention_loss(shown(*student), shown(*teacher, rng.normal(size=(3, 2, 2, 2))))
    assert found.item() == pytest.approx(expected, rel=1e-6)
    # Strengths do not count, but where they are does: here they are apart, |a - b|^2 / 2 = 1.
    left, right = np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2))
    left[..., 0], right[..., 1] = 3.0, 5.0
    assert attention_loss(shown(left), shown(2 * left)).item() == pytest.approx(0, abs=1e-12)
    assert attention_loss(shown(left), shown(right)).item() == pytest.approx(1)


def test_attention_of_a_map_of_zeros_has_a_finite_gradient() -> None:
    x = torch.zeros(1, 2, 4, 4, requires_grad=True)
    attention(x).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_watched_keeps_the_last_map_of_each_size_and_leaves_no_hook() -> None:
    arch = parse_architecture(
        {"stem": {"width": 4}, "stages": [{"depth": 2, "width": w, "stride": 2} for w in (8, 6)]},
        "two",
    )
    model = build_model(arch, 10)
    x = torch.rand(2, 3, 16, 16)
    with watched(model) as maps:
        for _ in range(2):
            model(x)
        stages = model.stem(x), model.stages[0](model.stem(x))
        assert list(maps.last) == [(s.shape[2], s.shape[3]) for s in stages[1:]] + [
            tuple(model.stages[1](stages[1]).shape[2:])
        ]
        widths = [m.shape[1] for m in maps.last.values()]
    assert widths == [8, 6]
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v1", "mobilenet_v1", "vgg16"])
def test_watched_finds_a_map_of_each_size_of_a_reference(name: str) -> None:
    # Each halves the picture five times; the last map of 64 pixels is 2 x 2. VGG starts at once,
    # the others with a stride.
    with torch.device("meta"):
        model = get_network(name).build(10, 64)
        with watched(model) as maps:
            model.eval()(torch.empty(1, 3, 64, 64))
            found = [size for size in maps.last if size != (7, 7)]  # of a pooling before classes
    sizes = [64, 32, 16, 8, 4, 2] if name == "vgg16" else [32, 16, 8, 4, 2]
    assert found == [(side, side) for side in sizes]


def small(strides: tuple[int, ...], width: int = 4) -> nn.Module:
    stages = [{"depth": 1, "width": width, "stride": stride} for stride in strides]
    arch = parse_architecture({"stem": {"width": 4, "stride": 1}, "stages": stages}, "small")
    return build_model(arch, 4)


def test_mix_adds_the_mean_attention_loss_of_the_teachers() -> None:
    student, *models = (small(s, w) for s, w in (((1, 2), 4), ((2, 1), 6), ((1, 2), 8)))
    teachers = tuple(Teacher(model, PLAIN, "t") for model in models)
    x = torch.rand(3, 3, 8, 8)
    with Distil(teachers, weight=0.0, features=3.0).teaching(student, x[:1]) as mix:
        logits = student.train()(x)
        found = mix(torch.tensor(1.5), logits, x)
    with watched(student) as own, torch.no_grad():
        student(x)
        gaps = []
        for model in models:
            with watched(model) as maps:
                model(x)
                both = [s for s in own.last if s in maps.last]
                pairs = [(own.last[s].double(), maps.last[s].double()) for s in both]
                rows = [attention_of(a.numpy()) - attention_of(b.numpy()) for a, b in pairs]
                gaps.append(sum(float((row**2).sum(1).mean()) / 2 for row in rows))
    assert found.item() == pytest.approx(1.5 + 3.0 * sum(gaps) / 2, rel=1e-5)
    found.backward()  # type: ignore[no-untyped-call]
    assert any(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for model in models for p in model.parameters())


def test_teaching_refuses_a_teacher_without_a_map_of_the_students_size() -> None:
    teacher = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Flatten(), nn.Linear(16, 4))
    distil = Distil((Teacher(teacher, PLAIN, "t"),), features=1.0)
    message = r"the student's maps \(4x4\) and the teacher's \(2x2\) have no size in common"
    with (
        pytest.raises(StudyError, match=message),
        distil.teaching(small((2,)), torch.zeros(1, 3, 8, 8)),
    ):
        pass


def test_distil_names_features_where_they_act() -> None:
    teacher = said(np.zeros((1, 2)))
    assert Distil((teacher,)).identity == "says, temperature 4, weight 0.9"
    assert Distil((teacher,), features=10).identity.endswith(", weight 0.9, features 10")


def test_train_model_with_features_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    data = load_data("digits", 8, cache_dir=tmp_path)
    recipe = RECIPES["quick"].model_copy(update={"epochs": 3, "train_size": 64})
    torch.manual_seed(7)
    distil = Distil((Teacher(build_tiny(), PLAIN, "t"),), features=10.0)

    class Stop(Exception):
        pass

    def stop(epoch: Epoch) -> None:
        raise Stop

    def run(checkpoint: Checkpoint | None, on_epoch: Callable[[Epoch], None]) -> dict[str, Tensor]:
        torch.manual_seed(3)
        model = build_tiny()
        train_model(
            model,
            data,
            recipe,
            seed=1,
            distil=distil,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
        )
        return model.state_dict()

    whole = run(None, lambda epoch: None)
    checkpoint = Checkpoint(tmp_path / "c.pt", {})
    with pytest.raises(Stop):
        run(checkpoint, stop)
    again = run(checkpoint, lambda epoch: None)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def build_tiny() -> nn.Module:
    arch = read_network("tiny.json").architecture
    assert arch
    return build_model(arch.at_resolution(8), 10)


# Training


def trained(distil: Distil | None, cache: Path) -> dict[str, Tensor]:
    """A network with dropout, after two epochs."""
    data = load_data("digits", 8, cache_dir=cache)
    arch = read_network("other.json").architecture
    assert arch
    torch.manual_seed(3)
    model = build_model(arch.at_resolution(8), 10)
    recipe = RECIPES["quick"].model_copy(update={"epochs": 2, "train_size": 64})
    train_model(model, data, recipe, seed=1, distil=distil)
    return model.state_dict()


def test_train_model_with_weight_0_is_plain_training_bit_by_bit(cache: Path) -> None:
    torch.manual_seed(7)
    arch = read_network("tiny.json").architecture
    assert arch
    teacher = Teacher(build_model(arch.at_resolution(8), 10), PLAIN, "t")
    plain = trained(None, cache)
    nothing = trained(Distil((teacher,), weight=0.0), cache)
    taught = trained(Distil((teacher,), weight=0.5), cache)
    assert all(torch.equal(plain[name], nothing[name]) for name in plain)
    assert not all(torch.equal(plain[name], taught[name]) for name in plain)


def test_train_learns_from_a_weights_file_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *TRAIN, "-o", "teacher") == 0
    before = Path(TEACHER).read_bytes()
    assert read_tensors(Path(TEACHER), Facts).facts.teacher == ""
    taught = [*TRAIN, "-o", "student", "--teacher", TEACHER, "--distil-weight", "0.5"]
    capsys.readouterr()
    assert nasattn(monkeypatch, *taught) == 0
    facts = read_tensors(Path("student/weights.safetensors"), Facts).facts
    assert facts.teacher.startswith("weights.safetensors ")
    assert facts.teacher.endswith(", temperature 4, weight 0.5")
    assert f"taught by {facts.teacher}" in capsys.readouterr().out
    assert Path(TEACHER).read_bytes() == before
    # The same again is done already; another weight is another training.
    assert nasattn(monkeypatch, *taught) == 0
    assert "trained already" in capsys.readouterr().out
    assert nasattn(monkeypatch, *taught[:-1], "0.4") == 2
    assert "is of another training (teacher: weights" in capsys.readouterr().err
    # Several teachers; and one by name, with weights from outside.
    write_outside()
    both = ["--teacher", TEACHER, "--teacher", "tiny.json=outside.npz"]
    norms = ["--teacher-mean", "0.5,0.5,0.5", "--teacher-std", "1,1,1"]
    assert nasattn(monkeypatch, *TRAIN, "-o", "third", *both, *norms) == 0
    assert "weights.safetensors " in (third := capsys.readouterr().out)
    assert " + tiny.json=outside.npz " in third
    assert " normalised by 0.5,0.5,0.5; 1,1,1, temperature 4" in third
    # Maps are followed where that is asked for.
    more = [*TRAIN, "-o", "fourth", "--teacher", TEACHER, "--teacher-features", "10"]
    assert nasattn(monkeypatch, *more) == 0
    facts = read_tensors(Path("fourth/weights.safetensors"), Facts).facts
    assert facts.teacher.endswith(", temperature 4, weight 0.9, features 10")
    # Another normalisation is another training.
    norms[3] = "1,1,2"
    assert nasattn(monkeypatch, *TRAIN, "-o", "third", *both, *norms) == 2


def write_outside() -> None:
    """The teacher's tensors as somebody else would give them."""
    tensors = read_tensors(Path(TEACHER), Facts).tensors
    np.savez("outside.npz", **{k: v.numpy() for k, v in tensors.items()})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "2"], "--temperature: means nothing without --teacher"),
        (["--distil-weight", "0.5"], "--distil-weight: means nothing without --teacher"),
        (["--teacher-features", "9"], "--teacher-features: means nothing without --teacher"),
        (["--teacher", TEACHER, "--teacher-features", "x"], "--teacher-features: 'x' is not a"),
        (["--teacher", TEACHER, "--teacher-features", "-1"], "weight of features: must be 0 or"),
        (["--teacher", "absent.safetensors"], "absent.safetensors: there is no such file"),
        (["--teacher", "resnet20"], "neither a weights file (.safetensors) nor NAME=FILE"),
        (["--teacher", "resnet20_cifr=x.npz"], "did you mean 'resnet20_cifar'?"),
        (["--teacher", "resnet20_cifar=x.npz"], "x.npz: there is no such file"),
        (["--teacher", "a=b", "--teacher-mean", "1,1,1"], "are given together"),
        (["--teacher", "a=b", "--teacher-mean", "1"], "must be three numbers"),
        (["--teacher", TEACHER, "--temperature", "hot"], "--temperature: 'hot' is not a number"),
        (["--teacher", TEACHER, "--temperature", "-1"], "temperature: must be above 0"),
        (["--teacher", TEACHER, "--resolution", "16"], "was trained on pictures of 8x8"),
        (["--teacher", TEACHER, "--data", "two.npz"], "knows 10 classes, two has 2"),
        (["--teacher", "tiny.json=outside.npz", "--data", "two.npz"], "for 2 classes"),
    ],
)
def test_train_refuses_a_teacher_that_cannot_teach(
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert nasattn(monkeypatch, *TRAIN, "-o", "teacher") == 0
    write_outside()
    pictures = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), np.uint8)
    labels = np.arange(40) % 2
    np.savez("two.npz", x_train=pictures, y_train=labels, x_test=pictures[:4], y_test=labels[:4])
    capsys.readouterr()
    assert_refused(monkeypatch, capsys, [*TRAIN, "-o", "student", *options], message)
