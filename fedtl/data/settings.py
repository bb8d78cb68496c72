"""What every data set's options have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from fedtl.choice import Choice, validate
from fedtl.data import read_domain
from fedtl.data.dataset import Dataset
from fedtl.data.held_out import HeldOut, check_held_out
from fedtl.data.partitions import read_partition
from fedtl.data.partitions.contract import Partition
from fedtl.data.views.images import LARGEST_SIDE
from fedtl.data.views.normalise import Constants, Normalisation
from fedtl.data.views.transform import ImageTransform
from fedtl.tasks import CLASSIFICATION, LearningTask, read_task


class DataChoice(Choice):
    """A data set, and how it is divided.

    Which samples are the server's test set, by ``pool`` and ``server_test_share``:

    ========== =================== ===================================================
    pool       server_test_share   the server's test set
    ========== =================== ===================================================
    "train"    not given           the official one, else 0.2 of all samples
    "train"    0                   none; an official test set is not used at all
    "train"    s > 0               s of all samples; an error where there is an official one
    "all"      not given           none
    "all"      s                   s of all samples, drawn from train and test sets alike
    ========== =================== ===================================================

    It is drawn stratified by label, before anything is divided. Where the data say themselves which of a
    client's samples are its test data, ``test_share`` is not used, and 0.2 becomes none.

    Attributes:
        clients: N; may be left out where the data say who owns which sample and the partition keeps to it, and where
            the partition is a file.
        partition: how the samples are divided among the clients.
        test_share: the share of each client's own samples that are its test data.
        validation_share: the share of each client's training samples that are its validation samples instead, at least
            one. They are drawn at random after the test data, which therefore stay the same, by the seed and the
            client alone; they keep their labels, and ``labelled_fraction`` is of the others. Models are scored on
            them, and not trained. Not used where the data say which samples are for validation.
        held_out_clients: clients that never train, and are scored apart as clients that join later: a share of them
            or a whole number, drawn by the seed, or their ids. Nothing that training uses comes from them: with any,
            "dataset" normalises by the other clients' training samples, and "pixel" by their samples. A server's test
            set that is drawn of samples with owners is then drawn of each owner's for itself.
        server_test_share: the share of all samples that is set aside as the server's test set.
        pool: "all": the official test set is divided among the clients as well.
        normalise: "dataset": by one mean and standard deviation per channel; "pixel": by mean and standard
            deviation of each pixel over the clients' samples, (x - mean) / (std + 0.001) with x in 0..255, as
            FedProx's and pFedMe's authors do (they divide all samples: a pixel that is black in all of the pool
            but not in the server's test set becomes huge); "none": bytes are divided by 255, other numbers stay;
            ``{ mean = 0.5, std = 0.5 }``: by these numbers, or lists with one per channel, after bytes are divided by
            255, here to [-1, 1].
        samples: only so many of the samples that the clients divide, drawn at random; all if not given.
        labelled_fraction: the share of each client's training samples that has labels, at least one sample unless
            the share is 0, and of each of its labels a share as near as whole samples can be. All its training
            samples are then also its unlabelled ones, ``Federation.target.train``.
        size: height and width that images are resized to (bilinear, with antialiasing).
        channels: of images: grey ones are repeated, of coloured ones the luma is taken.
        task: what is predicted of a sample: a name, or a table with a name and options.
        transform: what changes the images after that; mean and standard deviation are those of the changed images.
        target: another domain, with a table of its own: its samples are unlabelled for training, and labelled for
            scoring alone. With ``target.clients`` (which ``synthetic`` always has) so many further clients hold it,
            who come after these and hold nothing else; without, these clients hold both. Its classes must be as
            many. Its images get the height and width of these; where one is grey and the other coloured, the grey
            one is repeated. It is normalised as these are. Both are split with the same random numbers: of two
            looks of one data set, divided alike, an image is test data of both or of neither.
        public: samples that everybody may use, without labels; a table of its own as well, whose ``samples`` says
            how many of what its ``pool`` and ``server_test_share`` do not set aside for testing. They are copies:
            where one data set is both, clients may hold the same images, for training or for testing.
    """

    default_partition: ClassVar[dict[str, Any]] = {"name": "iid"}
    load_reads: ClassVar[frozenset[str]] = frozenset()
    """Of the options here, those by which :meth:`load` itself goes."""

    clients: int | None = Field(None, gt=0)
    partition: SerializeAsAny[Partition] = Field(None, validate_default=True)
    test_share: float = Field(0.25, ge=0, lt=1)
    validation_share: float = Field(0.0, ge=0, lt=1)
    held_out_clients: HeldOut = 0
    server_test_share: float | None = Field(None, ge=0, lt=1)
    pool: Literal["train", "all"] = "train"
    normalise: Normalisation = "dataset"
    samples: int | None = Field(None, gt=0)
    labelled_fraction: float = Field(1.0, ge=0, le=1)
    size: int | None = Field(None, gt=0, le=LARGEST_SIDE)
    channels: Literal[1, 3] | None = None
    transform: ImageTransform | None = None
    task: SerializeAsAny[LearningTask] = CLASSIFICATION

    older_names: ClassVar[Mapping[str, str]] = {"look": "transform"}
    target: SerializeAsAny[DataChoice] | None = None
    public: SerializeAsAny[DataChoice] | None = None

    @property
    def holders(self) -> int | None:
        """How many clients there are in all, those who hold the target alone too; None where the data say it."""
        own, target = self.own_holders, self.target
        return own if own is None or target is None else own + (target.clients or 0)

    @property
    def own_holders(self) -> int | None:
        """How many clients hold samples of this data set itself; None where the data say it."""
        return self.clients

    @property
    def fills_gaps_by(self) -> str | None:
        """What of the samples is filled in by all clients' rows before anything is divided; None for nothing."""
        return None

    @property
    def counts_clients(self) -> bool:
        """Whether the number of clients follows from the data or from a file, so that it may be left out."""
        return self.partition.counts_clients

    @abstractmethod
    def load(self) -> Dataset:
        """Read or make the samples."""

    @field_validator("held_out_clients")
    @classmethod
    def _can_be_held_out(cls, value: HeldOut) -> HeldOut:
        check_held_out(value)
        return value

    @field_validator("partition", mode="before")
    @classmethod
    def _read_partition(cls, value: object) -> Partition:
        return read_partition(cls.default_partition if value is None else value)

    @field_validator("task", mode="before")
    @classmethod
    def _read_task(cls, value: object) -> LearningTask:
        return read_task(value)

    @field_validator("normalise", mode="before")
    @classmethod
    def _read_normalise(cls, value: object) -> object:
        return validate(Constants, value, "data.normalise") if isinstance(value, Mapping) else value

    @field_validator("target", "public", mode="plain")  # after another mode they would be asked for their clients
    @classmethod
    def _read_domain(cls, value: object, info: ValidationInfo) -> DataChoice | None:
        return None if value is None else read_domain(value, f"data.{info.field_name}")

    @model_validator(mode="after")
    def _knows_clients(self, info: ValidationInfo) -> DataChoice:
        if info.context != "domain" and self.clients is None and not self.counts_clients:
            raise ValueError(
                f"clients is missing: the partition {self.partition.name!r} must be told how many clients there are"
            )
        return self

    @model_validator(mode="after")
    def _goes_together(self) -> DataChoice:
        if self.held_out_clients and self.fills_gaps_by is not None:
            raise ValueError(
                f"held_out_clients does not go with {self.fills_gaps_by}, which follows from all clients' rows, theirs "
                "too; leave one of them out"
            )
        if self.labelled_fraction < 1 and self.target is not None:
            raise ValueError(
                f"labelled_fraction = {self.labelled_fraction:g} does not go with a target, whose samples are the "
                "unlabelled ones; leave one of them out"
            )
        if self.channels == 1 and self.transform is not None and self.transform.photographs:
            raise ValueError("channels = 1 does not go with transform.photographs, which has 3; leave one of them out")
        return self
