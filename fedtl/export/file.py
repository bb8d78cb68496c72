"""A model as one file: its parameters, what it is, what it takes and what it answers.

As .safetensors it is read back by :func:`load_exported`; as ONNX it needs neither fedtl nor PyTorch.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, field_validator
from torch import Tensor, nn

from fedtl.choice import ConfigError, as_recorded, validate
from fedtl.clients.serving import OLDER
from fedtl.data.samples import FewSamples
from fedtl.data.schema import DataSchema
from fedtl.disk import durable
from fedtl.models import ModelChoice, build_model, read_model
from fedtl.models.adapters import merged
from fedtl.models.pretrained import copy

FORMAT = 1
KEY = "fedtl"
"""In a file's metadata: where :class:`About` stands, as JSON."""

Personal = Literal["adapted", "stored", "partial"]


class About(BaseModel):
    """What a file says of its model.

    Attributes:
        format: of the file.
        fedtl: the version that wrote it.
        which: "global", or "personalised": a client's own.
        client: whose, its id from 0; None for the global model.
        client_name: what the run calls the client, if it gives names.
        personal: which personalised model, as a run's scores name it: "adapted", "stored" or "partial".
        experiment, seed, method: of the run's config.
        round: after which the global model was this one, or the one that a personalised model belongs to.
        model: the network, as a [model] table.
        frame: what it takes and answers, a :class:`~fedtl.data.schema.DataSchema` as JSON has it; of a table with its
            columns.
        predictor: the term whose modules the network is taken together with; None where it is alone.
    """

    model_config = ConfigDict(frozen=True)

    format: int
    fedtl: str
    which: Literal["global", "personalised"]
    client: int | None = None
    client_name: str | None = None
    personal: Personal | None = None
    experiment: str
    seed: int
    method: str
    round: int
    model: dict[str, Any]
    frame: dict[str, Any]
    predictor: dict[str, Any] | None = None

    @field_validator("personal", mode="before")
    @classmethod
    def _by_present_names(cls, value: Any) -> Any:
        return OLDER.get(value, value) if isinstance(value, str) else value

    def __str__(self) -> str:
        whose = "global model"
        if self.which == "personalised":
            name = f" ({self.client_name})" if self.client_name else ""
            whose = f"client {self.client}'s{name} personalised model ({self.personal})"
        shape = " x ".join(map(str, self.frame["shape"]))
        what = f"{self.frame['classes']} classes"
        if outcomes := self.frame.get("outcomes"):
            what = f"{outcomes['outputs']} outputs ({self.frame['task']['name']})"
        return (
            f"{self.experiment}, {self.method}, round {self.round}: {whose}, {self.model['name']}, "
            f"{self.frame['dtype']} {shape} to {what}"
        )


@dataclass(frozen=True)
class Exported:
    """A model that can be written.

    Attributes:
        module: in evaluation mode, on the CPU.
        frame: what it takes and answers.
        about: what the file says of it.
        few: the data's first samples, where they are at hand, to try out on what is written.
    """

    module: nn.Module
    frame: DataSchema
    about: About
    few: FewSamples | None = None


class OnStored(nn.Module):
    """A network that takes samples as they are stored, uint8 or float32 ``[n, *shape]``, and normalises them itself."""

    scale: Tensor
    shift: Tensor

    def __init__(self, module: nn.Module, frame: DataSchema) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("scale", torch.tensor(frame.scale))
        self.register_buffer("shift", torch.tensor(frame.shift))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[n, outputs]``, or what else the task's model gives."""
        logits: Tensor = self.module(x.to(torch.float32) * self.scale + self.shift)
        return logits


def load_exported(path: str | Path) -> tuple[nn.Module, DataSchema, About]:
    """Read a model that ``fedtl export`` wrote as .safetensors.

    Returns:
        The module in evaluation mode, which takes ``x * frame.scale + frame.shift`` ``[n, *frame.shape]`` float32 and
        gives logits ``[n, frame.outputs]``, or for each token, or numbers that ``frame.outcomes`` standardises; what it
        takes and answers; what it is.

    Raises:
        ConfigError: there is no such file, or it is no exported model.
    """
    from safetensors import SafetensorError, safe_open

    file = existing(path)
    try:
        with safe_open(file, framework="pt") as tensors:
            about, frame = read_about(tensors.metadata() or {}, file)
            state = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"{file} cannot be read as safetensors: {why}") from error
    with as_recorded():
        choice = read_model(about.model)
    return rebuilt(choice, frame, state, str(file), predictor=about.predictor), frame, about


def existing(path: str | Path) -> Path:
    """A model's file, which is there.

    Raises:
        ConfigError: it is not.
    """
    if not Path(path).is_file():
        raise ConfigError(f"{path}: there is no such file; fedtl export RUN -o {Path(path).name} makes one")
    return Path(path)


def read_about(metadata: Mapping[str, str], file: Path) -> tuple[About, DataSchema]:
    """What a file's metadata say of the model in it.

    Raises:
        ConfigError: ``fedtl export`` did not write them, or another version of it did.
    """
    if KEY not in metadata:
        raise ConfigError(
            f"{file} is no exported model, as it does not say which network it is; fedtl export makes one"
        )
    try:
        table = dict(json.loads(metadata[KEY]))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file} is no exported model: what it says of itself is no JSON table") from error
    if table.get("format") != FORMAT:
        raise ConfigError(
            f"{file} has format {table.get('format')!r}, and this fedtl reads {FORMAT}: use the one that wrote it, "
            f"{table.get('fedtl')}"
        )
    about = validate(About, table, f"{file}: metadata")
    return about, DataSchema.from_json(json.dumps(about.frame), f"{file}: frame")


def rebuilt(
    choice: ModelChoice,
    frame: DataSchema,
    state: Mapping[str, Tensor],
    what: str,
    few: FewSamples | None = None,
    predictor: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The network with exactly these parameters, in evaluation mode.

    Args:
        choice: which network.
        frame: what it takes and answers.
        state: the parameters by name.
        what: they are, for messages.
        few: samples that it takes.
        predictor: a term whose modules it is taken together with.

    Raises:
        ConfigError: the network cannot be built, or these are another one's; ``what`` names them.
    """
    module = build_model(choice.untrained(), frame.shape, frame.outputs, 0, few, frame.task)
    if predictor is not None:
        from fedtl.export.predictor import predictor_of

        module = predictor_of(module, predictor, frame, what)
    copy(state, module, what)
    return module.eval()


def write_safetensors(exported: Exported, file: Path) -> None:
    """Write a model as .safetensors: its ``state_dict``, and :class:`About` as metadata.

    Raises:
        RunError: the file cannot be written.
    """
    from safetensors.torch import save

    # Clones, as tensors that share memory (tied weights) would be refused.
    state = {name: tensor.detach().clone().contiguous() for name, tensor in exported.module.state_dict().items()}
    with replacing(file) as unfinished:
        # Not save_file, which lets nobody else read the file.
        unfinished.write_bytes(save(state, metadata={KEY: exported.about.model_dump_json()}))


def write_onnx(exported: Exported, file: Path) -> None:
    """Write a model as ONNX: "x" ``[batch, *shape]``, samples as they are stored, to "logits" ``[batch, outputs]``.

    It is tried out first: torch's exporter may take for constant what depends on the samples or on their number.

    Raises:
        ConfigError: the packages for it are not installed, or this model cannot be exported.
        RunError: the file cannot be written.
    """
    check_onnx()
    name, module = exported.about.model["name"], merged(deepcopy(exported.module))
    network = OnStored(module, exported.frame).eval()
    samples = _samples(network, exported)
    try:
        with _silenced(), torch.no_grad():
            program = torch.onnx.export(
                network,
                (samples[:2],),
                dynamo=True,
                verbose=False,
                input_names=["x"],
                output_names=["logits"],
                dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
            )
    except Exception as error:
        raise ConfigError(
            f"the model {name!r} cannot be exported to ONNX: {_cause(error)}; .safetensors can"
        ) from error
    assert program is not None
    program.model.metadata_props[KEY] = exported.about.model_dump_json()
    with replacing(file) as unfinished:
        program.save(unfinished)
        if why := _unlike(network, unfinished, samples):
            raise ConfigError(f"the model {name!r} cannot be exported to ONNX: {why}; .safetensors can")


def check_onnx() -> None:
    """Check that ONNX can be written and tried out.

    Raises:
        ConfigError: a package is not installed.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_onnx(package)


def import_onnx(package: str) -> Any:
    """One of the packages of the extra "onnx".

    Raises:
        ConfigError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise ConfigError(f'ONNX needs the package {error.name}: pip install "fedtl[onnx]"') from error


def _samples(network: nn.Module, exported: Exported) -> Tensor:
    """Three samples as they are stored that the network takes, of the data where they are at hand, else made up.

    Raises:
        ConfigError: it takes none that can be made up.
    """
    frame, size = exported.frame, (3, *exported.frame.shape)
    if exported.few is not None:
        return exported.few.stored[torch.arange(3) % len(exported.few.stored)].to(getattr(torch, frame.dtype))
    rng, words = np.random.default_rng(0), np.random.default_rng(1).integers(0, 2, size)
    any_number = rng.integers(0, 256, size, np.uint8) if frame.dtype == "uint8" else rng.standard_normal(size)
    error: Exception | None = None
    for made_up in (any_number, words, np.ones(size)):
        x = torch.from_numpy(made_up.astype(frame.dtype))
        try:
            with torch.no_grad():
                network(x)
        except Exception as raised:
            error = raised
        else:
            return x
    assert error is not None
    raise ConfigError(
        f"the model {exported.about.model['name']!r} cannot be exported to ONNX here, as there are no samples to "
        f"try it out on, and made-up ones it does not take: {_cause(error)}; .safetensors can"
    ) from error


def _unlike(network: nn.Module, file: Path, samples: Tensor) -> str | None:
    """What an ONNX file does otherwise with samples than the network that it was made of; None if nothing."""
    for n in (1, 3):
        x = samples[:n]
        with torch.no_grad():
            expected = network(x).numpy()
        try:
            session = import_onnx("onnxruntime").InferenceSession(str(file), providers=["CPUExecutionProvider"])
            (logits,) = session.run(None, {"x": x.numpy()})
        except Exception as error:
            return f"the file does not run on {n} samples: {_cause(error)}"
        if logits.shape != expected.shape or not np.allclose(logits, expected, rtol=1e-3, atol=1e-4):
            return f"of {n} samples the file makes other logits than the model"
    return None


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Where to write a file that takes the place of ``file`` when it is whole.

    Raises:
        RunError: it cannot be written.
    """
    from fedtl.runs.record import writing

    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with durable.replacing(file) as unfinished:
            yield unfinished


@contextmanager
def _silenced() -> Iterator[None]:
    """Torch's exporter prints what it tries, and warns of itself."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _cause(error: BaseException) -> str:
    """What an error came from, as the end of a sentence."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('. ')}" if lines else type(error).__name__
