"""Make the peers' environments, each its own: their requirements exclude one another's.

    python -m tests.benchmarks.peers.install [flower] [pfl] [fluke] [pfllib]

They are made under $FEDTL_PEERS, or ~/.cache/fedtl-peers, about 1 GB each. pip's own variables are obeyed
(PIP_INDEX_URL, PIP_FIND_LINKS, ...); for the small CPU build of torch set PIP_EXTRA_INDEX_URL to
https://download.pytorch.org/whl/cpu. PFLlib is no package: its source is cloned from GitHub into PFLlib/ of its
environment; one that lies there already is taken as it is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from dataclasses import dataclass

from tests.benchmarks.peers.contestants import PFLLIB, PFLLIB_COMMIT, peers_folder

TORCH = "torch==2.13.0"
"""The same for all, and for us: see constraints.txt."""


@dataclass(frozen=True)
class Requirements:
    """What pip installs.

    Attributes:
        packages: with what they depend on.
        alone: without.
    """

    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()


PEERS = {
    # 1.42.0 differs from 1.41.0 in its requirements by newer releases of certifi and uv, which a package index
    # that lags behind does not have, and which the simulation does not need.
    "flower": Requirements((TORCH, "flwr[simulation]==1.41.0"), ("flwr==1.42.0",)),
    "pfl": Requirements((TORCH, "pfl==0.6.0")),
    # fluke requires loggers and data-set libraries of several GB that FedAvg on tensors never imports; without
    # torchvision its torchmetrics does without as well.
    "fluke": Requirements(
        (
            TORCH,
            "numpy==2.4.6",
            "pandas==3.1.1",
            "scikit-learn==1.9.1",
            "rich==14.3.4",
            "psutil",
            "matplotlib==3.11.2",
            "seaborn",
            "diskcache",
            "omegaconf",
            "cerberus",
            "torchmetrics==1.9.0",
        ),
        ("fluke-fl==0.8.1",),
    ),
    PFLLIB: Requirements((TORCH, "numpy==2.4.6", "scikit-learn==1.9.1", "h5py==3.16.0", "matplotlib==3.11.2")),
}
PFLLIB_SOURCE = "https://github.com/TsingZ0/PFLlib"


def install(peer: str) -> None:
    """Make one environment, or bring it up to date."""
    folder = peers_folder() / peer
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install"]
    subprocess.run([*pip, *PEERS[peer].packages], check=True)
    if PEERS[peer].alone:
        subprocess.run([*pip, "--no-deps", *PEERS[peer].alone], check=True)
    source = folder / "PFLlib"
    if peer == PFLLIB and not source.exists():
        subprocess.run(["git", "clone", "--filter=blob:none", PFLLIB_SOURCE, str(source)], check=True)
        subprocess.run(["git", "checkout", "--quiet", PFLLIB_COMMIT], cwd=source, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}; all if none is given")
    options = parser.parse_args()
    failed = []
    for peer in options.peers or PEERS:
        if peer not in PEERS:
            parser.error(f"there is no peer {peer!r}; there are {', '.join(PEERS)}")
        try:
            install(peer)
        except subprocess.CalledProcessError as error:
            failed.append(f"{peer}: {error}")
    print("\n".join(failed) or f"installed under {peers_folder()}", file=sys.stderr if failed else sys.stdout)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
