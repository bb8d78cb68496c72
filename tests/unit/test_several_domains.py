"""Several domains in one federation: each client of one, and one that no client has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fedtl
from fedtl.choice import ConfigError
from fedtl.comparison import compare
from fedtl.comparison.formats import sections
from fedtl.config.read import build, read_config
from fedtl.data import read_data
from fedtl.data.domains import forget_data_sets, keep_data_sets
from fedtl.data.export import export
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.data.own.read import read_own
from fedtl.data.schema import DataSchema
from fedtl.data.sets.digits import Digits
from fedtl.data.views.images import resize
from fedtl.data.views.transform import ImageTransform
from fedtl.runs.baselines import gains
from fedtl.runs.history import load
from fedtl.server.scores import ClientScores

DIGITS = Digits(clients=1).load()
LOOKS: dict[str, Any] = {
    "plain": {"name": "digits"},
    "inverted": {"name": "digits", "transform": {"invert": True}},
    "turned": {"name": "digits", "transform": {"rotate": 90}},
}
DIRICHLET = {"name": "dirichlet", "alpha": 0.3, "min_size": 1}


def federation(seed: int = 0, **options: Any) -> Federation:
    return federate(read_data({"name": "domains", "domains": LOOKS, **options}), seed)


def held(federation: Federation) -> list[set[int]]:
    """Each client's samples, for whatever purpose."""
    return [{*federation.train[c].tolist(), *federation.test[c].tolist()} for c in range(federation.clients)]


def config(**options: Any) -> dict[str, Any]:
    data = {"name": "domains", "domains": {name: {**look, "samples": 60} for name, look in LOOKS.items()}}
    return {
        "name": "looks",
        "rounds": 2,
        "data": {**data, "held_out": "turned", "clients": 4},
        "model": {"name": "logistic"},
        "strategy": {"name": "fedavg", "lr": 0.05, "local_steps": 2},
        "simulation": {"grid": "in-process"},
        **options,
    }


# --- who holds what ---


def test_each_client_is_of_one_domain_and_nobody_of_the_one_held_out() -> None:
    whole = federation(held_out=["inverted"], clients=5, partition=DIRICHLET)
    assert whole.domains == ("plain", "inverted", "turned")
    assert whole.domain_of is not None
    assert whole.domain_of.tolist() == [0, 0, 0, 2, 2]
    rows = whole.held_out["inverted"]
    each = [*held(whole), set(whole.server_test.tolist()), set(rows.tolist())]
    assert sum(map(len, each)) == len(set().union(*each)) == len(DIGITS.y)  # every sample is somebody's, once
    assert {name: clients.tolist() for name, clients in whole.clients_of_domains.items()} == {
        "plain": [0, 1, 2],
        "turned": [3, 4],
    }
    # What is held out are inverted digits: bright but for the strokes.
    assert whole.x[rows].mean() > 128 > max(whole.x[list(samples)].mean() for samples in held(whole))


def test_domains_of_one_data_set_share_its_samples_class_by_class() -> None:
    whole = federation()
    undone = {0: lambda x: x, 1: lambda x: 255 - x, 2: lambda x: np.rot90(x, -1, axes=(-2, -1))}
    originals = {image.tobytes(): label for image, label in zip(DIGITS.x, DIGITS.y.tolist())}
    seen = list[bytes]()
    for client in range(3):
        samples = sorted(held(whole)[client])
        images = [np.ascontiguousarray(undone[client](image)).tobytes() for image in whole.x[samples]]
        assert [originals[image] for image in images] == whole.y[samples].tolist()
        seen += images
    assert len(seen) == len(set(seen)) + (len(DIGITS.y) - len(originals))  # the digits have a few twins themselves
    per_class = [np.bincount(whole.y[list(samples)], minlength=10) for samples in held(whole)]
    assert np.ptp(per_class, axis=0).max() <= 2


def test_all_of_them_where_that_is_asked_for_and_none_is_trained_in_one_look_and_tested_in_another() -> None:
    whole, n = federation(disjoint=False, clients=6), len(DIGITS.y)
    tests = [{i % n for c in (2 * d, 2 * d + 1) for i in whole.test[c].tolist()} for d in range(3)]
    assert tests[0] == tests[1] == tests[2]
    assert {i % n for i in whole.server_test.tolist()} == {i for i in whole.server_test.tolist() if i < n}
    assert len(whole.x) == 3 * n
    assert not whole.notes
    (note,) = federation(disjoint=False, held_out="turned").notes
    assert note.startswith("data.held_out = 'turned': clients train on its samples in another look")
    assert not federation(held_out="turned").notes


def test_another_domain_held_out_leaves_the_others_as_they_were() -> None:
    one, two = federation(held_out="plain", partition=DIRICHLET), federation(held_out="inverted", partition=DIRICHLET)
    assert one.train[1].tolist() == two.train[1].tolist()  # of "turned", the last client in both
    assert federation(partition=DIRICHLET).train[2].tolist() == two.train[1].tolist()


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({}, [1, 1, 1]),
        ({"clients": 7}, [3, 2, 2]),
        ({"clients": 7, "domains": {**LOOKS, "inverted": {**LOOKS["inverted"], "clients": 4}}}, [2, 4, 1]),
        ({"domains": {**LOOKS, "turned": {**LOOKS["turned"], "clients": 2}}}, [1, 1, 2]),
        ({"clients": 3, "held_out": ["plain"]}, [2, 1]),
    ],
)
def test_how_many_clients_a_domain_has(options: dict[str, Any], counts: list[int]) -> None:
    choice = read_data({"name": "domains", "domains": LOOKS, **options})
    assert choice.holders == sum(counts)
    assert [len(clients) for clients in federate(choice, 0).clients_of_domains.values()] == counts


def test_the_owners_of_a_domain_are_its_clients(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for domain, owners in (("east", 2), ("west", 3)):
        user = np.arange(30) % owners
        np.savez(tmp_path / f"{domain}.npz", x=rng.random((30, 4), np.float32), y=np.arange(30) % 3, user=user)
    table = {name: {"name": "npz", "path": str(tmp_path / f"{name}.npz")} for name in ("east", "west")}
    whole = federate(read_data({"name": "domains", "domains": table, "partition": "natural"}), 0)
    assert whole.domain_of is not None
    assert whole.domain_of.tolist() == [0, 0, 1, 1, 1]
    with pytest.raises(ConfigError, match=r"data\.clients = 6: the domains have 5 owners; leave it out"):
        federate(read_data({"name": "domains", "domains": table, "partition": "natural", "clients": 6}), 0)


def test_partitions_that_change_samples_change_them_within_each_domain() -> None:
    plain, noisy = federation(clients=6), federation(clients=6, partition={"name": "noisy", "sigma": 0.3})
    changed = [bool((plain.x[list(rows)] != noisy.x[list(rows)]).any()) for rows in held(plain)]
    assert changed == [False, True] * 3  # the second of each domain's two clients
    assert np.array_equal(plain.x[plain.server_test], noisy.x[plain.server_test])


def test_a_split_as_a_file_gives_the_same_federation(tmp_path: Path) -> None:
    from fedtl.data.federate import federate_with_divisions
    from fedtl.data.split import write_split

    table = {"name": "domains", "domains": LOOKS, "held_out": ["turned"]}
    whole, divisions = federate_with_divisions(read_data({**table, "clients": 5, "partition": DIRICHLET}), 3)
    write_split(divisions.source.split(), tmp_path / "split.npz")
    again = federate(read_data({**table, "partition": {"name": "file", "path": str(tmp_path / "split.npz")}}), 3)
    assert again.fingerprint() == whole.fingerprint()
    assert np.array_equal(again.domain_of, whole.domain_of)
    with pytest.raises(ConfigError, match="no client may have this domain"):
        other = {**table, "held_out": ["plain"], "partition": {"name": "file", "path": str(tmp_path / "split.npz")}}
        federate(read_data(other), 3)
    (tmp_path / "mixed.csv").write_text("sample,client,test\n0,0,0\n1,0,1\n700,0,0\n")
    with pytest.raises(ConfigError, match=r"client 0 would have samples of plain and of inverted"):
        federate(read_data({**table, "partition": {"name": "file", "path": str(tmp_path / "mixed.csv")}}), 3)


def owned(folder: Path, owners: int = 2, *, test: bool) -> dict[str, Any]:
    """A data set of some owners, who say which samples are for testing or do not."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for owner in range(owners):
        more = {"x_test": rng.random((4, 4), np.float32), "y_test": np.arange(4) % 3} if test else {}
        np.savez(folder / f"{owner}.npz", x=rng.random((12, 4), np.float32), y=np.arange(12) % 3, **more)
    return {"name": "npz", "path": str(folder)}


def test_a_domain_that_does_not_say_what_is_for_testing_has_its_test_share(tmp_path: Path) -> None:
    table = {name: owned(tmp_path / name, test=name == "east") for name in ("east", "west")}
    whole = federate(
        read_data({"name": "domains", "domains": table, "partition": "natural", "server_test_share": 0}), 0
    )
    alone = federate(read_data({**table["west"], "server_test_share": 0}), 0)
    assert whole.test.sizes.tolist() == [4, 4, *alone.test.sizes.tolist()]
    assert alone.test.sizes.all()


def test_kept_domains_know_who_counts_their_clients(tmp_path: Path) -> None:
    table = {name: owned(tmp_path / name, owners, test=False) for name, owners in (("east", 1), ("west", 2))}
    keep_data_sets()
    try:
        for partition, counts in (("iid", [2, 1]), ("natural", [1, 2])):
            choice = read_data({"name": "domains", "domains": table, "clients": 3, "partition": partition})
            assert [len(clients) for clients in federate(choice, 0).clients_of_domains.values()] == counts
    finally:
        forget_data_sets()


def test_images_of_one_folder_are_shared_at_whatever_size(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for image in range(6):
            pixels = np.full((8, 8), 40 * image + (label == "dog"), np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{image}.png")
    table = {str(size): {"name": "images", "path": str(tmp_path), "size": size} for size in (8, 4)}
    whole = federate(read_data({"name": "domains", "domains": table, "server_test_share": 0}), 0)
    shades = [[int(whole.x[row].max()) for row in samples] for samples in held(whole)]
    assert sorted(shades[0] + shades[1]) == sorted({*shades[0], *shades[1]})
    assert len(whole.y) == 12


# --- one shape, one normalisation, the same classes ---


def images(folder: Path, domain: str, sizes: dict[str, tuple[int, ...]], number: int = 4) -> None:
    rng = np.random.default_rng(len(domain))
    for kind, shape in sizes.items():
        (folder / domain / kind).mkdir(parents=True)
        for i in range(number):
            Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(folder / domain / kind / f"{i}.png")


def test_a_folder_of_domains_is_brought_to_one_shape_and_says_how(tmp_path: Path) -> None:
    images(tmp_path, "photo", {"cat": (12, 8, 3), "dog": (12, 8, 3)})
    images(tmp_path, "sketch", {"cat": (6, 10), "dog": (6, 10), "owl": (6, 10)})
    whole = federate(read_data({"name": "domains", "path": str(tmp_path), "server_test_share": 0}), 0)
    assert whole.shape == (3, 12, 10)  # the largest height, and the largest width
    assert whole.label_names == ("cat", "dog", "owl")
    assert np.bincount(whole.y).tolist() == [8, 8, 4]
    assert whole.notes == (
        "data.domains.photo: 12 x 8 pixels became 12 x 10",
        "data.domains.sketch: 6 x 10 pixels became 12 x 10",
        "data.domains.sketch: 1 channel was repeated to 3",
        "data.domains.photo: it has no class owl",
    )
    first = np.asarray(Image.open(tmp_path / "sketch" / "cat" / "0.png"))[None, None]
    assert np.array_equal(whole.x[8], np.repeat(resize(first, 12, 10)[0], 3, axis=0))
    grey = federate(read_data({"name": "domains", "path": str(tmp_path), "size": 9, "channels": 1}), 0)
    assert grey.shape == (1, 9, 9)


def test_inputs_are_normalised_by_what_clients_have() -> None:
    whole = federation(held_out=["inverted"])
    rows = np.setdiff1d(np.arange(len(whole.x)), whole.held_out["inverted"])
    inputs = whole.x[rows] * whole.scale + whole.shift
    assert abs(inputs.mean()) < 1e-4
    assert abs(inputs.std() - 1) < 1e-4


def test_a_look_is_as_fine_as_the_other_domains_pixels() -> None:
    table = {"large": {"name": "digits", "size": 16}, "over": {"name": "digits", "transform": {"photographs": True}}}
    whole = federate(read_data({"name": "domains", "domains": table, "disjoint": False}), 0)
    over = ImageTransform(photographs=True).apply(resize(DIGITS.x, 16, 16))
    assert np.array_equal(whole.x[len(DIGITS.x) :], over)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": {}}, r"data: give either domains, as \[data\.domains\.NAME\] name = 'mnist', or path, a folder"),
        ({"domains": ["digits", "digits"]}, r"data\.domains: 'digits' is there twice; give each domain a name"),
        ({"domains": "digits"}, r"data\.domains = 'digits': give a table for each, as \[data\.domains\.photo\]"),
        ({"domains": {"a": "digit"}}, r"data\.domains\.a\.name = 'digit' is unknown: did you mean 'digits'\?"),
        ({"domains": {"a": "domains"}}, r"data\.domains\.a: several domains cannot stand within another table"),
        ({"domains": {"a": {"name": "digits", "partition": "shards"}}}, r"domains\.a\.partition\.name = 'shards'"),
        ({"domains": {"a": {"name": "digits", "test_share": 0.5}}}, r"domains\.a\.test_share = 0\.5: it is the same"),
        ({"domains": {"a/b": "digits"}}, "'a/b' cannot be the name of a domain"),
        ({"held_out": ["plian"]}, r"held_out = 'plian' is no domain: did you mean 'plain'\?"),
        ({"held_out": list(LOOKS)}, "held_out names all domains; leave one for the clients"),
        ({"clients": 2}, r"clients = 2: the domains that clients have need 3 or more"),
        ({"task": "regression"}, r"task\.name = 'regression' does not go with several domains"),
        ({"target": "domains"}, r"data\.target: several domains cannot stand within another table"),
        (
            {"domains": {**LOOKS, "plain": {"name": "digits", "clients": 2}}, "held_out": ["plain"]},
            r"held_out = 'plain': no client has this domain, so leave out its clients",
        ),
        (
            {"domains": {name: {**look, "clients": 2} for name, look in LOOKS.items()}, "clients": 7},
            r"clients = 7: the domains that clients have need 6$",
        ),
    ],
)
def test_what_is_no_list_of_domains_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_data({"name": "domains", "domains": LOOKS, **options})


def test_what_does_not_go_together_is_refused_when_it_is_read(tmp_path: Path) -> None:
    for name, x, y in (
        ("bytes", np.zeros((9, 1, 8, 8), np.uint8), np.arange(9) % 3),
        ("floats", np.zeros((9, 1, 8, 8), np.float32), np.arange(9) % 3),
        ("four", np.zeros((9, 1, 8, 8), np.uint8), np.arange(9) % 4),
        ("words", np.zeros((9, 1, 8, 8), np.uint8), np.array(["a", "b", "c"] * 3)),
        ("others", np.zeros((9, 1, 8, 8), np.uint8), np.array(["x", "y", "z"] * 3)),
    ):
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)

    def pair(*names: str) -> Federation:
        table = {name: {"name": "npz", "path": str(tmp_path / f"{name}.npz")} for name in names}
        return federate(read_data({"name": "domains", "domains": table}), 0)

    with pytest.raises(ConfigError, match=r"data\.domains\.floats: a sample is float32 \[1, 8, 8\], but uint8"):
        pair("bytes", "floats")
    with pytest.raises(ConfigError, match=r"data\.domains\.four: it has 4 classes, but bytes 3; all domains must have"):
        pair("bytes", "four")
    with pytest.raises(ConfigError, match=r"data\.domains\.words: no other domain has any of its classes, a, b, c"):
        pair("words", "others")
    assert "classes of bytes have no names" in " ".join(pair("words", "bytes").notes)
    with pytest.raises(ConfigError, match=r"there are only 9 samples .*in the domain bytes"):
        table = {"bytes": {"name": "npz", "path": str(tmp_path / "bytes.npz"), "clients": 12}}
        federate(read_data({"name": "domains", "domains": table, "server_test_share": 0}), 0)


# --- runs ---


def test_the_record_reads_by_domain(tmp_path: Path) -> None:
    run = fedtl.run(config(), out=tmp_path / "run")
    last = run.rounds[-1]["scores"]
    assert list(last) == [
        "global/clients",
        "global/clients/plain",
        "global/clients/inverted",
        "global/server-test",
        "global/held-out/turned",
    ]
    table = run.client_table("numpy")
    assert table["domain"].tolist() == ["plain", "plain", "inverted", "inverted"]
    for domain in ("plain", "inverted"):
        mine = table[table["domain"] == domain]
        mean = np.average(mine["global/clients/accuracy"], weights=mine["samples"])
        assert last[f"global/clients/{domain}"]["accuracy"]["weighted_mean"] == pytest.approx(mean)
        assert (last[f"global/clients/{domain}"]["scored"], last[f"global/clients/{domain}"]["of"]) == (2, 2)
    # The held-out score by hand, from the model that the run has written.
    whole = federate(read_config(config())[0].data, 0)
    rows = whole.held_out["turned"]
    state = {name: tensor.numpy() for name, tensor in run.state_dict().items()}
    weight, bias = (next(state[n] for n in state if n.endswith(ending)) for ending in ("weight", "bias"))
    inputs = (whole.x[rows] * whole.scale + whole.shift).reshape(len(rows), -1)
    right = ((inputs @ weight.T + bias).argmax(1) == whole.y[rows]).mean()
    assert len(rows) == 60
    assert last["global/held-out/turned"]["accuracy"] == pytest.approx(right)


def test_methods_are_compared_on_a_domains_clients(tmp_path: Path) -> None:
    slower = {"name": "fedavg", "lr": 0.01, "local_steps": 2}
    runs = [fedtl.run(config(**more), out=tmp_path / str(i)) for i, more in enumerate(({}, {"strategy": slower}))]
    comparison = compare(runs, score="global/clients/inverted", resamples=99)
    for group, run in zip(comparison.groups, runs):
        recorded = run.rounds[-1]["scores"]["global/clients/inverted"]["accuracy"]
        assert group.clients == {0: 2}
        assert group.worst_decile is not None
        assert group.worst_decile.mean == recorded["worst_decile"]
    (difference,) = comparison.differences
    values = [run.client_table("numpy")["global/clients/accuracy"][2:] for run in runs]
    assert difference.clients == 2
    assert difference.better + difference.worse == np.count_nonzero(values[0] - values[1])
    assert "mean over clients" in sections(comparison)[0].title
    assert not any("Scores of the server" in note for note in comparison.notes)


def test_gains_on_a_domain_are_over_the_clients_that_both_scored(tmp_path: Path) -> None:
    run, other = (fedtl.run(config(), out=tmp_path / name) for name in ("run", "other"))
    record = dict(other.clients[-1])
    last = {metric: values[:-1] for metric, values in record["scores"]["global/clients"].items()}
    record |= {"clients": record["clients"][:-1], "samples": record["samples"][:-1], "scores": {"global/clients": last}}
    (other.path / "clients.jsonl").write_text(json.dumps(record) + "\n")
    by_score = {gain.score: gain.clients for gain in gains(run, {"other": load(other.path)})}
    assert by_score["global/clients"] == 3
    assert by_score["global/clients/inverted"] == 1
    assert by_score["global/clients/plain"] is None  # all of its clients are scored by both


def test_a_method_without_a_model_for_all_says_that_nothing_is_scored_there(tmp_path: Path) -> None:
    table = config(strategy={"name": "local", "lr": 0.05, "local_steps": 1}, rounds=1)
    run = fedtl.run(table, out=tmp_path / "run")
    assert not any("held-out" in name for name in run.rounds[-1]["scores"])
    assert any("nothing is scored on turned" in note for note in run.environment["notes"])


def test_the_config_is_read_as_it_was_written() -> None:
    read = read_config(config())[0]
    assert build(read.tables()) == read
    assert "test_share" not in read.tables()["data"]["domains"]["plain"]
    assert [*read.tables()["data"]["domains"]] == [*LOOKS]


def test_no_more_clients_train_than_there_are() -> None:
    table = config(strategy={"name": "fedavg", "lr": 0.05, "clients_per_round": 3})
    del table["data"]["clients"]
    with pytest.raises(ConfigError, match=r"strategy\.clients_per_round = 3: there are only 2 clients"):
        read_config(table)


def test_a_domain_of_scores_keeps_who_is_missing() -> None:
    scores = ClientScores(
        [0, 2, 3], [10, 20, 30], {"global": {"accuracy": [0.5, 0.2, 0.8], "loss": [1.0, 2.0, 3.0]}}, missing=[1, 4]
    )
    row = scores.of_domain("photo", np.array([1, 2, 3])).summary()["global/clients/photo"]
    assert (row["scored"], row["of"]) == (2, 3)
    assert row["accuracy"]["weighted_mean"] == pytest.approx((0.2 * 20 + 0.8 * 30) / 50)  # type: ignore[index]


# --- deployment ---


def test_what_is_exported_says_the_domain_and_what_is_held_out(tmp_path: Path) -> None:
    whole = federation(held_out=["turned"], clients=3, server_test_share=0)
    export(whole, tmp_path)
    assert [(tmp_path / str(c) / "domain.txt").read_text() for c in range(3)] == ["plain\n", "plain\n", "inverted\n"]
    frame = DataSchema.read(tmp_path / "server" / "frame.json")
    server = read_own(str(tmp_path / "server"), server=True).as_federation(frame, 0, 3)
    rows = whole.held_out["turned"]
    assert np.array_equal(server.x[server.held_out["turned"]], whole.x[rows])
    assert np.array_equal(server.y[server.held_out["turned"]], whole.y[rows])
    assert len(server.server_test) == 0
    own = read_own(str(tmp_path / "2"))
    assert own.describe()["domain"] == "inverted"
    assert "domain" not in json.loads(json.dumps(read_own(str(tmp_path / "server"), server=True).describe()))
    (tmp_path / "2" / "domain.txt").write_text("in verted")
    with pytest.raises(ConfigError, match="'in verted' cannot be the name of a domain"):
        read_own(str(tmp_path / "2"))


def test_clients_that_never_train_are_not_counted_to_their_domain(tmp_path: Path) -> None:
    table = config(rounds=1)
    table["data"]["held_out_clients"] = [0]
    run = fedtl.run(table, out=tmp_path / "run")
    last = run.rounds[-1]["scores"]
    assert (last["global/clients/plain"]["scored"], last["global/clients/plain"]["of"]) == (1, 1)
    assert last["global/clients/inverted"]["of"] == 2
    assert last["global/unseen-clients"]["scored"] == 1
