"""Who takes part, in which environment, and how each is started."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PFLLIB = "pfllib"
PFLLIB_COMMIT = "d832e76f6a23b833038949ec1e4fdefe63a4d350"
SOURCE = f"PFLlib's source at {PFLLIB_COMMIT[:9]}"
NO_SHUFFLE = "gives a client's samples in the same order in every round"


@dataclass(frozen=True)
class Contestant:
    """One way to do the work.

    Attributes:
        name: on the command line.
        label: in tables and pictures.
        script: the module that does it; "ours" for ``fedtl run``.
        peer: the environment that it needs, by the name of its folder; None for fedtl's own.
        processes: its workers.
        threads: torch's, in each.
        variant: see the script.
        remark: what a reader of the table should know.
    """

    name: str
    label: str
    script: str
    peer: str | None = None
    processes: int = 2
    threads: int = 1
    variant: str = ""
    remark: str = ""


CONTESTANTS = {
    c.name: c
    for c in (
        Contestant("ours", "fedtl run, RayGrid, 2 actors", "ours", variant="ray"),
        Contestant("ours-in-process", "fedtl run, in-process", "ours", processes=1, variant="in-process"),
        Contestant("flower", "Flower's simulation, 2 actors", "run_flower", "flower"),
        Contestant("pfl", "pfl, 2 processes", "run_pfl", "pfl", remark=NO_SHUFFLE),
        Contestant(
            "pfl-bytes", "pfl, 2 processes, data as bytes", "run_pfl", "pfl", variant="bytes", remark=NO_SHUFFLE
        ),
        Contestant("fluke", "fluke, 1 process", "run_fluke", "fluke", processes=1),
        Contestant("fluke-threads", "fluke, 1 process, 2 threads", "run_fluke", "fluke", processes=1, threads=2),
        Contestant("pfllib", "PFLlib, 1 process", "run_pfllib", PFLLIB, processes=1, remark=SOURCE),
        Contestant(
            "pfllib-threads",
            "PFLlib, 1 process, 2 threads",
            "run_pfllib",
            PFLLIB,
            processes=1,
            threads=2,
            remark=SOURCE,
        ),
        Contestant("bare-sgd", "bare loop, torch.optim.SGD, 2 processes", "run_bare", variant="sgd"),
        Contestant("bare-flat", "bare loop, flat views, 2 processes", "run_bare", variant="flat"),
        Contestant("limit", "backward by hand, 2 processes", "run_bare", variant="limit"),
        Contestant("pfedme", "fedtl run, pFedMe, RayGrid, 2 actors", "ours", variant="pfedme"),
    )
}
OURS, PFEDME, LIMIT = "ours", "pfedme", "limit"


def peers_folder() -> Path:
    """Where the peers' environments lie: FEDTL_PEERS, or ~/.cache/fedtl-peers."""
    return Path(os.environ.get("FEDTL_PEERS") or "~/.cache/fedtl-peers").expanduser()


def python_of(contestant: Contestant, chosen: dict[str, Path]) -> Path:
    """The interpreter that runs a contestant; ``chosen`` overrides where a peer's is looked for."""
    if contestant.peer is None:
        return Path(sys.executable)
    return chosen.get(contestant.peer) or peers_folder() / contestant.peer / "bin" / "python"


def module_path(contestant: Contestant) -> list[Path]:
    """What a contestant's script imports from besides its environment."""
    return [ROOT, *([pfllib_source()] if contestant.peer == PFLLIB else [])]


def pfllib_source() -> Path:
    """PFLlib's modules: a source tree beside its environment."""
    return peers_folder() / PFLLIB / "PFLlib" / "system"


def missing(contestant: Contestant, chosen: dict[str, Path]) -> str | None:
    """Why a contestant cannot take part, or None."""
    python = python_of(contestant, chosen)
    if not python.exists():
        return f"not installed: there is no {python}"
    if contestant.peer == PFLLIB and not pfllib_source().is_dir():
        return f"not installed: there is no {pfllib_source()}"
    return None


def environment(contestant: Contestant, folder: Path) -> dict[str, str]:
    """The environment variables of a contestant's processes."""
    threads = str(contestant.threads)
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, module_path(contestant))),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "RAY_USAGE_STATS_ENABLED": "0",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_HOME": str(folder / "flwr"),
    }
