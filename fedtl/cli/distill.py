"""``fedtl distill``: a trained model becomes a smaller one, with data or without."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from fedtl.config.schema import Config
    from fedtl.data.federation import Federation
    from fedtl.data.samples import Samples
    from fedtl.distill.method import Method
    from fedtl.models import ModelChoice

# Everything else is imported by the command, as in fedtl/cli/commands.py.

METRICS, SAMPLES, STUDENT = "metrics.jsonl", "samples.png", "student.safetensors"
KEYS = ("device", "method", "seed", "student")


def distill(
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER", hidden=True)],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", hidden=True)] = None,
    student: Annotated[str, typer.Option("--student", metavar="MODEL", help="The student, as lenet5.")] = "",
    method: Annotated[
        str, typer.Option("--method", metavar="METHOD", help="dafl, zskd, class-impressions, or data.")
    ] = "",
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="The folder; results/NAME-METHOD/TIME-SEED if not given.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the folder.")] = False,
) -> None:
    """Distil a trained model into a smaller one.

    Its samples are made by the method, or come from the teacher's data.

    TEACHER is a run's folder; its data serve to score, and only the method "data" trains with them.

    KEY=VALUE sets an option, as student.width=0.5, method.steps=2000, or seed=1.
    """
    from fedtl.cli import printing
    from fedtl.cli.signals import ended_by_signals, of_a_run

    watcher: Watcher | None = None
    try:
        with ended_by_signals(of_a_run()):
            watcher = Watcher(
                _read(teacher, student, method, overrides or ()), out_dir, None if quiet else printing.out
            )
            watcher.run()
    except KeyboardInterrupt:
        if watcher:
            watcher.close()
        hint = f"; {watcher.folder} keeps the scores so far" if watcher and watcher.scored else ""
        printing.err.print(f"stopped before the end{hint}", markup=False, soft_wrap=True)
        raise typer.Exit(printing.INTERRUPTED) from None
    finally:
        if watcher:
            watcher.close()
    if not quiet:
        printing.print_whole(watcher.table())
    printing.out.print(f"{watcher.folder}", markup=False, soft_wrap=True)


class Asked:
    """What the command line asked for, read and checked.

    Attributes:
        path: the teacher's folder, as it was given.
        run: the teacher's config.
        seed, device: of the distillation.
        student, method: the choices.
    """

    def __init__(self, path: Path, run: Config, tables: Mapping[str, Any], student: ModelChoice, method: Method):
        self.path, self.run, self.student, self.method = path, run, student, method
        self.seed, self.device = int(tables["seed"]), str(tables["device"])

    def toml(self) -> str:
        """The resolved distillation as TOML."""
        import tomli_w

        tables = self.run.tables()
        return tomli_w.dumps(
            {
                "seed": self.seed,
                "device": self.device,
                "student": self.student.model_dump(mode="json", exclude_none=True),
                "method": self.method.model_dump(mode="json", exclude_none=True),
                "teacher": {"run": str(self.path), **{key: tables[key] for key in ("name", "seed", "model", "data")}},
            }
        )


def _read(path: Path, student: str, method: str, overrides: Sequence[str]) -> Asked:
    from fedtl.choice import ConfigError, nearest
    from fedtl.config.overrides import override
    from fedtl.config.read import build_to_read
    from fedtl.distill import METHODS, read_method
    from fedtl.models import MODELS, read_model
    from fedtl.runs.history import load

    if not student:
        raise ConfigError(f"--student is missing: give a model, as {', '.join(sorted(MODELS))}")
    if not method:
        raise ConfigError(f"--method is missing: give one of {', '.join(sorted(METHODS))}")
    tables: dict[str, Any] = {"seed": 0, "device": "auto", "student": {"name": student}, "method": {"name": method}}
    override(tables, overrides)
    for key in tables:
        if key not in KEYS:
            raise ConfigError(
                f"{key} is not a key here: {nearest(key, KEYS)}; options are student.KEY=VALUE and method.KEY=VALUE"
            )
    for key in ("student", "method"):
        if not isinstance(tables[key], dict):
            raise ConfigError(f"{key} = {tables[key]!r}: give --{key} and its options as {key}.KEY=VALUE")
    seed, device = tables["seed"], tables["device"]
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed = {seed!r}: should be a whole number, 0 or more")
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device = {device!r}: should be 'auto', 'cpu' or 'cuda'")
    try:
        chosen = read_model(tables["student"])
    except ConfigError as error:  # a config's own table of a model has another name
        raise ConfigError(str(error).replace("model.", "student.", 1)) from error
    run = build_to_read(dict(load(path).config))
    if run.data.task.kind != "classification":
        raise ConfigError(f"{path}: data.task is {run.data.task.name!r}, and only a model of classes can be distilled")
    return Asked(path, run, tables, chosen, read_method(tables["method"]))


class Watcher:
    """Runs a distillation, writes its folder, and shows how far it is.

    The folder holds config.toml, environment.json, metrics.jsonl with a line per evaluation, which is on disk when the
    next step begins, at the end student.safetensors, and samples.png where images were synthesised.
    """

    def __init__(self, asked: Asked, folder: Path | None, console: Console | None) -> None:
        self.asked, self.console = asked, console
        stem = f"{asked.run.name}-{asked.method.name.rpartition(':')[2]}"
        self.folder = folder or _free(Path("results") / stem / f"{time.strftime('%Y%m%d-%H%M%S')}-{asked.seed}")
        self.scored: list[dict[str, Any]] = []
        self.bar: Progress | None = None
        self.phase = ""
        self.status = ""
        self.began = time.perf_counter()
        self.student: nn.Module
        self.federation: Federation
        self.x: Samples

    def run(self) -> None:
        """All of it."""
        import torch
        from safetensors.torch import save_file

        from fedtl.choice import ConfigError
        from fedtl.data.federate import federate
        from fedtl.data.samples import FewSamples, Samples
        from fedtl.disk.durable import replacing
        from fedtl.distill.method import Job, distil
        from fedtl.models import build_model
        from fedtl.models.pretrained import check_whole
        from fedtl.runs.history import load
        from fedtl.runs.record import writing

        asked = self.asked
        if asked.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device = 'cuda': no CUDA device is at hand here; use 'auto' or 'cpu'")
        cuda = asked.device == "cuda" or (asked.device == "auto" and torch.cuda.is_available())
        device = torch.device("cuda" if cuda else "cpu")
        run = load(asked.path)
        check_whole(str(asked.path), "RUN")
        state = run.state_dict()
        federation = self.federation = federate(asked.run.data, asked.run.seed).at(run.last_round())
        if not len(federation.server_test):
            raise ConfigError(
                f"{asked.path}: its config leaves the server no test set to score on; give the teacher's run "
                "data.server_test_share"
            )
        few = FewSamples.of(federation)
        teacher = build_model(asked.run.model, federation.shape, federation.classes, asked.run.seed, few)
        teacher.load_state_dict(state)
        # Its own seed, or a student of the teacher's size would begin as the teacher did.
        self.student = build_model(asked.student, federation.shape, federation.classes, asked.seed + 1, few)
        teacher, self.student = teacher.to(device), self.student.to(device)
        # On a CPU max-pooling is ten times as fast in this order, and convolutions keep it.
        by_pixel = len(federation.shape) == 3 and device.type == "cpu"
        self.x = Samples(federation, device, channels_last=by_pixel)
        threads = torch.get_num_threads()
        if device.type == "cpu":
            torch.set_num_threads(1)  # the order of sums, and so every bit, is then the same everywhere
        try:
            self._begin(teacher)
            job = Job(
                teacher,
                self.student,
                federation.shape,
                federation.classes,
                asked.seed,
                self._bounds(),
                (self.x, federation.train.order) if asked.method.name == "data" else None,
                self,
            )
            distil(asked.method, job)
        finally:
            torch.set_num_threads(threads)
        with writing(self.folder):
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.student.state_dict().items()}
            with replacing(self.folder / STUDENT) as unfinished:
                save_file(tensors, unfinished)

    def _begin(self, teacher: nn.Module) -> None:
        from fedtl.choice import ConfigError
        from fedtl.runs import record

        if (self.folder / "config.toml").exists():
            raise ConfigError(f"{self.folder} holds a run already: choose another --out")
        asked = self.asked
        sizes = {name: sum(p.numel() for p in m.parameters()) for name, m in self._models(teacher).items()}
        device = next(teacher.parameters()).device.type
        with record.writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            about = record.environment(device=device, parameters=sizes)
            (self.folder / "environment.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            (self.folder / "config.toml").write_text(asked.toml(), encoding="utf-8")
        if self.console:
            self.console.print(
                f"{asked.method.name}: {asked.run.model.name} ({sizes['teacher']:,} numbers) of {asked.path} into "
                f"{asked.student.name} ({sizes['student']:,}), {asked.run.data.name}, seed {asked.seed}, {device}",
                markup=False,
            )
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=6),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}", markup=False),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.bar.start()
        self._write(0, {f"{name}/server-test": self._score(model) for name, model in self._models(teacher).items()}, {})

    def _models(self, teacher: nn.Module) -> dict[str, nn.Module]:
        return {"teacher": teacher, "student": self.student}

    def _bounds(self) -> tuple[Tensor, Tensor] | None:
        """The inputs of a black and of a white pixel, where samples are stored bytes; part of what the model takes."""
        import numpy as np
        import torch

        if self.federation.x.dtype != np.uint8:
            return None
        black = torch.tensor(self.federation.shift)
        return black, black + 255 * torch.tensor(self.federation.scale)

    def step(self, phase: str, done: int, of: int, losses: Mapping[str, Tensor]) -> None:
        """Move the bar on."""
        if self.bar is None:
            return
        if phase != self.phase:
            self.phase = phase
            self.bar.add_task(phase, total=of, status="")
        self.bar.update(self.bar.task_ids[-1], completed=done)

    def score(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Score the student, and write it."""
        values = {name: float(value.detach()) for name, value in losses.items()}
        self._write(step, {"student/server-test": self._score(self.student)}, values)
        if self.bar:
            self.bar.update(self.bar.task_ids[-1], status=self.status)

    def samples(self, x: Tensor, y: Tensor) -> None:
        """Draw the samples, where they are images."""
        from fedtl.plot.images import images
        from fedtl.plot.style import save

        if x.ndim != 4:
            return
        pixels = self._pixels(x.detach().cpu().numpy())
        names = self.federation.label_names or tuple(str(label) for label in range(self.federation.classes))
        title = f"{self.asked.method.name}: what the teacher takes for each label"
        save(images(pixels, y.cpu().numpy(), title, names), self.folder / SAMPLES)

    def _pixels(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Model inputs as grey or colour in 0..1; what was never bytes is stretched to that."""
        import numpy as np

        if self.federation.x.dtype == np.uint8:
            return np.asarray(np.clip((x - self.federation.shift) / self.federation.scale / 255, 0, 1), np.float32)
        return np.asarray((x - x.min()) / max(float(x.max() - x.min()), 1e-9), np.float32)

    def _score(self, model: nn.Module) -> dict[str, float]:
        """Accuracy and mean cross-entropy on the server's test set."""
        import numpy as np
        import torch
        from torch.nn import functional as F

        from fedtl.models.modes import in_evaluation

        correct, loss = 0, 0.0
        test = self.federation.server_test
        with in_evaluation(model), torch.no_grad():
            for rows in np.array_split(test, -(-len(test) // 500)):
                x, y = self.x.batch(rows)
                logits = model(x)
                correct += int((logits.argmax(1) == y).sum())
                loss += float(F.cross_entropy(logits, y, reduction="sum"))
        return {"accuracy": correct / len(test), "loss": loss / len(test)}

    def _write(self, step: int, scores: Mapping[str, Mapping[str, float]], losses: Mapping[str, float]) -> None:
        from fedtl.runs.record import writing

        line = {"step": step, "seconds": time.perf_counter() - self.began, "scores": scores, "losses": losses}
        with writing(self.folder), (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(line), allow_nan=False) + "\n")
        self.scored.append(line)
        self.status = f"student {100 * scores['student/server-test']['accuracy']:.2f} %"

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bar:
            self.bar.stop()

    def table(self) -> Table:
        """Which model scored what on which data."""
        table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
        for column in ("accuracy in %", "last", "step", "best", "step"):
            table.add_column(column, justify="left" if column == "accuracy in %" else "right", no_wrap=True)
        for name in ("teacher/server-test", "student/server-test"):
            points = [
                (line["step"], line["scores"][name]["accuracy"]) for line in self.scored if name in line["scores"]
            ]
            last, best = points[-1], max(points, key=lambda each: each[1])
            table.add_row(name, f"{100 * last[1]:.2f}", str(last[0]), f"{100 * best[1]:.2f}", str(best[0]))
        return table


def _free(folder: Path) -> Path:
    again, free = 1, folder
    while free.exists():
        free, again = folder.with_name(f"{folder.name}.{again}"), again + 1
    return free


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not a number becomes null."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return value
