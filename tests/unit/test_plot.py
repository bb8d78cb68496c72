"""What the pictures say: the numbers in the drawn artists, not their pixels."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import tomli_w
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fedtl import plot
from fedtl.choice import ConfigError
from fedtl.data.federation import Federation, Shards
from fedtl.plot.groups import group
from fedtl.plot.style import byte_unit, look
from fedtl.runs.history import Run, load

SAMPLES = np.array([10, 20, 30, 40])
MakeRun = Callable[..., Run]


def own(method: str, seed: int, number: int, model: str) -> NDArray[np.float64]:
    """Made-up accuracies of four clients; different for every method, seed, round and model."""
    shift = {"fedavg": 0.0, "pfedme": 0.05, "ditto": 0.1}.get(method, 0.02) + 0.2 * (model == "personal")
    return shift + 0.01 * seed * (1 + number % 3) + 0.02 * number + np.array([0.0, 0.1, 0.2, 0.3])


def over_clients(values: NDArray[np.float64]) -> dict[str, float]:
    return {
        "weighted_mean": float(np.average(values, weights=SAMPLES)),
        "mean": float(values.mean()),
        "worst_decile": float(values.min()),
    }


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(
        method: str = "pfedme",
        seed: int = 0,
        *,
        name: str | None = None,
        rounds: int = 4,
        last: int | None = None,
        scores: tuple[str, ...] = ("global/server-test", "global/clients", "personal/clients"),
        settings: dict[str, Any] | None = None,
        tail: str = "",
        without: int = 0,
    ) -> Run:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        config = {"name": name or f"mnist-{method}", "seed": seed, "rounds": rounds}
        strategy = {"name": method, **(settings or {})}
        (folder / "config.toml").write_text(tomli_w.dumps({**config, "data": {"clients": 4}, "strategy": strategy}))
        lines, clients = [], []
        for number in range(rounds + 1 if last is None else last + 1):
            record: dict[str, Any] = {"round": number, "seconds": 1.0 + seed, "bytes_down": 0, "bytes_up": 0}
            if number:
                record |= {"bytes_down": 2_000_000, "bytes_up": 500_000}
            if number % 2 == 0 and scores:
                each = {score: own(method, seed, number, score.partition("/")[0]) for score in scores}
                record["scores"] = {
                    score: {"accuracy": over_clients(values) if "clients" in score else float(values[0])}
                    for score, values in each.items()
                }
                if "personal/clients" in each:
                    record["scores"]["personal/clients"] |= {"clients_without": without, "model": "adapted"}
                per = {score: {"accuracy": values.tolist()} for score, values in each.items() if "clients" in score}
                if per:
                    clients.append({"round": number, "clients": [0, 1, 2, 3], "scores": per})
            lines.append(record)
        (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
        (folder / "clients.jsonl").write_text("".join(json.dumps(line) + "\n" for line in clients))
        return load(folder)

    return make


def lines(axes: Axes) -> dict[str, Line2D]:
    return {str(line.get_label()): line for line in axes.lines}


def xs(line: Line2D) -> NDArray[np.float64]:
    return np.asarray(line.get_xdata(), np.float64)


def ys(line: Line2D) -> NDArray[np.float64]:
    return np.asarray(line.get_ydata(), np.float64)


def points(axes: Axes) -> list[NDArray[np.float64]]:
    """The values of each row of clients."""
    return [
        np.sort(np.asarray(collection.get_offsets())[:, 0])
        for collection in axes.collections
        if isinstance(collection, PathCollection)
    ]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts() if text.get_text()]


def caption(figure: Figure) -> str:
    return figure.legends[0].get_title().get_text().replace("\n", " ")


def expected(method: str, seeds: list[int], model: str, rounds: tuple[int, ...] = (0, 2, 4)) -> NDArray[np.float64]:
    """Weighted means ``[seeds, rounds]``."""
    return np.array([[np.average(own(method, s, r, model), weights=SAMPLES) for r in rounds] for s in seeds])


def test_one_line_per_method_is_the_mean_of_its_seeds(make_run: MakeRun) -> None:
    runs = [make_run(method, seed) for method in ("fedavg", "pfedme", "ditto") for seed in (0, 1, 3)]
    figure = plot.convergence(runs)
    left, right = figure.axes
    for axes, model in ((left, "global"), (right, "personal")):
        assert list(lines(axes)) == ["fedavg", "pfedme", "ditto"]
        for method, line in lines(axes).items():
            np.testing.assert_array_equal(xs(line), [0, 2, 4])
            np.testing.assert_allclose(ys(line), expected(method, [0, 1, 3], model).mean(axis=0))
    assert left.get_title("left").startswith("Global model\non the clients' test data,\nweighted mean")
    assert right.get_title("left").startswith("Personalised model")
    assert left.get_ylabel() == "accuracy"
    assert legend(figure) == ["fedavg", "pfedme", "ditto"]
    assert caption(figure) == "lines: mean of 3 seeds, bands: lowest to highest"


def test_the_band_reaches_from_the_lowest_to_the_highest_seed(make_run: MakeRun) -> None:
    figure = plot.convergence([make_run(seed=seed) for seed in (0, 3, 1)])
    bands = [collection for collection in figure.axes[0].collections if isinstance(collection, PolyCollection)]
    assert len(bands) == 1
    corners = {(float(x), round(float(y), 9)) for x, y in np.asarray(bands[0].get_paths()[0].vertices)}
    each = expected("pfedme", [0, 3, 1], "global")
    for at, number in enumerate((0, 2, 4)):
        assert (number, round(each[:, at].min(), 9)) in corners
        assert (number, round(each[:, at].max(), 9)) in corners


def test_a_single_scored_round_has_one_tick(make_run: MakeRun) -> None:
    figure = plot.convergence([make_run(rounds=1)])
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [0]


def test_a_single_run_has_no_band(make_run: MakeRun) -> None:
    figure = plot.convergence([make_run()])
    assert not figure.axes[0].collections
    assert caption(figure) == ""


def test_methods_look_different_and_alike_in_all_panels(make_run: MakeRun) -> None:
    figure = plot.convergence([make_run(method) for method in ("fedavg", "pfedme", "ditto")])
    looks = [[(line.get_color(), line.get_marker()) for line in axes.lines] for axes in figure.axes]
    assert looks[0] == looks[1]
    assert len(set(looks[0])) == 3
    assert len({look(i) for i in range(28)}) == 28


def test_a_method_without_personalised_models_is_in_one_panel_only(make_run: MakeRun) -> None:
    runs = [make_run("fedavg", scores=("global/server-test", "global/clients")), make_run("pfedme")]
    figure = plot.convergence(runs)
    assert [list(lines(axes)) for axes in figure.axes] == [["fedavg", "pfedme"], ["pfedme"]]


def test_without_any_personalised_model_there_is_one_panel(make_run: MakeRun) -> None:
    figure = plot.convergence([make_run("fedavg", scores=("global/clients",))])
    assert len(figure.axes) == 1


def test_the_server_test_stands_in_where_a_method_has_no_scores_on_clients(make_run: MakeRun) -> None:
    runs = [make_run("fedavg", scores=("global/server-test",)), make_run("pfedme")]
    left, right = plot.convergence(runs).axes
    assert left.get_title("left") == "Global model\non the server's test data"
    np.testing.assert_allclose(ys(lines(left)["fedavg"]), [own("fedavg", 0, r, "global")[0] for r in (0, 2, 4)])
    assert list(lines(left)) == ["fedavg", "pfedme"]
    assert list(lines(right)) == ["pfedme"]


def test_scores_by_name(make_run: MakeRun) -> None:
    runs = [make_run()]
    figure = plot.convergence(runs, score=["personal/clients", "global/server-test"])
    assert [axes.get_title("left").partition("\n")[0] for axes in figure.axes] == ["Personalised model", "Global model"]
    assert len(plot.convergence(runs, score="global/clients").axes) == 1
    with pytest.raises(ConfigError, match=r"score = 'personal/client'.*did you mean 'personal/clients'"):
        plot.convergence(runs, score="personal/client")


def test_other_statistics(make_run: MakeRun) -> None:
    axes = plot.convergence([make_run()], score="personal/clients", statistic="worst_decile").axes[0]
    values = [own("pfedme", 0, number, "personal").min() for number in (0, 2, 4)]
    np.testing.assert_allclose(ys(axes.lines[0]), values)
    assert "worst decile over clients" in axes.get_title("left")


def test_over_bytes_and_seconds(make_run: MakeRun) -> None:
    runs = [make_run(seed=0), make_run(seed=1)]
    axes = plot.convergence(runs, axis="bytes").axes[0]
    np.testing.assert_allclose(xs(axes.lines[0]), [0, 5, 10])
    assert axes.get_xlabel() == "sent to and from clients so far (MB)"
    axes = plot.convergence(runs, axis="seconds").axes[0]
    np.testing.assert_allclose(xs(axes.lines[0]), [1.5, 4.5, 7.5])  # seeds take 1 and 2 seconds a round
    assert "seconds" in axes.get_xlabel()
    with pytest.raises(ConfigError, match="axis = 'hours'"):
        plot.convergence(runs, axis="hours")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "shown"), [(12, (12, "bytes")), (2e3, (2, "kB")), (3e6, (3, "MB")), (4e9, (4, "GB")), (5e12, (5, "TB"))]
)
def test_byte_units(number: float, shown: tuple[float, str]) -> None:
    factor, unit = byte_unit(number)
    assert number * factor == pytest.approx(shown[0])
    assert unit == shown[1]


def test_a_running_seed_ends_the_line_and_the_caption_says_so(make_run: MakeRun) -> None:
    runs = [make_run(seed=0), make_run(seed=1, last=2, tail='{"round": 3, "sec')]
    figure = plot.convergence(runs)
    np.testing.assert_array_equal(xs(figure.axes[0].lines[0]), [0, 2])
    np.testing.assert_allclose(ys(figure.axes[0].lines[0]), expected("pfedme", [0, 1], "global", (0, 2)).mean(axis=0))
    assert "only as far as all seeds are: pfedme" in caption(figure)


def test_a_seed_that_is_not_scored_yet_does_not_count(make_run: MakeRun) -> None:
    figure = plot.convergence([make_run(seed=0), make_run(seed=1, scores=())])
    np.testing.assert_allclose(ys(figure.axes[0].lines[0]), expected("pfedme", [0], "global")[0])
    assert "mean of" not in caption(figure)


def test_a_method_that_is_not_scored_yet_is_named(make_run: MakeRun) -> None:
    figure = plot.convergence([make_run("fedavg", scores=()), make_run("pfedme")])
    assert list(lines(figure.axes[0])) == ["pfedme"]
    assert "no such score yet: fedavg" in caption(figure)


@pytest.mark.parametrize("draw", [plot.convergence, plot.per_client, plot.compare])
def test_nothing_to_draw(make_run: MakeRun, draw: Callable[..., Figure]) -> None:
    with pytest.raises(ConfigError, match="there is no run"):
        draw([])
    run = make_run(scores=())
    with pytest.raises(ConfigError, match=f"recorded yet in {run.path}"):
        draw([run])


def test_unknown_metric(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        plot.convergence([make_run()], metric="acuracy")
    with pytest.raises(ConfigError, match="no client has a score 'loss'"):
        plot.per_client([make_run()], metric="loss")


def test_labels_say_what_differs(make_run: MakeRun) -> None:
    def labels(*runs: Run) -> list[str]:
        return [run_group.label for run_group in group(runs)]

    assert labels(make_run("fedavg"), make_run("pkg.mod:Mine")) == ["fedavg", "Mine"]
    assert labels(make_run(name="a"), make_run(name="b")) == ["a", "b"]
    assert labels(make_run(settings={"lam": 1.0}), make_run(settings={"lam": 15.0})) == [
        "pfedme, lam=1.0",
        "pfedme, lam=15.0",
    ]
    many = {f"option_number_{i}": i for i in range(9)}
    runs = [make_run(), make_run(settings=many)]
    assert labels(*runs) == [str(run.path) for run in runs]


def test_seeds_are_gathered_and_a_folder_counts_once(make_run: MakeRun) -> None:
    first, second = make_run(seed=0), make_run(seed=1)
    groups = group([first, make_run("fedavg"), second, load(first.path)])
    assert [[run.seed for run in run_group.runs] for run_group in groups] == [[0, 1], [0]]


def test_repeated_seeds_are_not_called_seeds(make_run: MakeRun) -> None:
    assert "mean of 2 runs" in caption(plot.convergence([make_run(), make_run()]))


def test_names_are_not_read_as_mathematics(make_run: MakeRun, tmp_path: Path) -> None:
    figure = plot.compare([make_run(name="_a$b$"), make_run(name="$\\x")])
    assert {"_a$b$", "$\\x"} <= set(legend(figure))
    plot.save(figure, tmp_path / "names.svg")
    assert ">_a$b$<" in (tmp_path / "names.svg").read_text()


def test_every_client_is_a_point(make_run: MakeRun) -> None:
    fedavg = make_run("fedavg", scores=("global/server-test", "global/clients"))
    figure = plot.per_client([fedavg, make_run("pfedme")])
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "fedavg\nglobal model",
        "pfedme\nglobal model",
        "pfedme\npersonalised model",
    ]
    rows = points(axes)
    for row, (method, model) in zip(rows, (("fedavg", "global"), ("pfedme", "global"), ("pfedme", "personal"))):
        np.testing.assert_allclose(row, own(method, 0, 4, model))
    assert len(rows) == 3
    assert axes.get_title("left") == "Each client\nafter round 4"
    assert axes.get_xlabel() == "accuracy of each client"


def test_marks_are_the_recorded_mean_and_worst_decile(make_run: MakeRun) -> None:
    figure = plot.per_client([make_run(seed=0), make_run(seed=2)])
    axes = figure.axes[0]
    values = [own("pfedme", seed, 4, "personal") for seed in (0, 2)]
    np.testing.assert_allclose(points(axes)[1], np.sort(np.concatenate(values)))  # the seeds' clients together
    mean = np.mean([np.average(value, weights=SAMPLES) for value in values])
    worst = np.mean([value.min() for value in values])
    marks = {(line.get_marker(), round(float(xs(line)[0]), 9)) for line in axes.lines}
    assert {("D", round(float(mean), 9)), ("v", round(float(worst), 9))} <= marks
    assert f"◇ {mean:.3f}\n▽ {worst:.3f}" in [text.get_text() for text in axes.texts]
    assert {"weighted mean", "worst decile"} <= set(legend(figure))
    assert caption(figure) == "a point is one client under one of 2 seeds"


def test_clients_without_a_score_are_counted(make_run: MakeRun) -> None:
    run = make_run(scores=("global/clients",))
    run.clients[-1]["scores"]["global/clients"]["accuracy"] = [0.5, None, 0.25, None]
    figure = plot.per_client([run])
    np.testing.assert_array_equal(points(figure.axes[0])[0], [0.25, 0.5])
    assert caption(figure) == "pfedme: 2 clients have no score"


def test_clients_without_a_personalised_model_are_named(make_run: MakeRun) -> None:
    assert (
        "pfedme: 3 clients have no personalised model of their own yet and are scored with the global one"
        in caption(plot.per_client([make_run(without=3)]))
    )


def test_runs_at_different_rounds_say_so(make_run: MakeRun) -> None:
    figure = plot.per_client([make_run("fedavg", last=2), make_run("pfedme")])
    assert "round 2 to 4" in figure.axes[0].get_title("left")


def test_compare_is_both_pictures(make_run: MakeRun) -> None:
    runs = [make_run(method) for method in ("fedavg", "pfedme")]
    figure = plot.compare(runs)
    left, middle, right = figure.axes
    for axes, alone in zip((left, middle), plot.convergence(runs).axes):
        for label, line in lines(alone).items():
            np.testing.assert_array_equal(ys(lines(axes)[label]), ys(line))
    for row, alone_row in zip(points(right), points(plot.per_client(runs).axes[0])):
        np.testing.assert_array_equal(row, alone_row)
    assert figure.get_figwidth() == 11.0
    assert legend(figure)[0] == "fedavg"


def test_texts_do_not_overlap_or_leave_the_picture(make_run: MakeRun) -> None:
    """Long names, many methods: the layout must hold, whatever is drawn."""
    runs = [make_run("pfedme", name=f"cifar10-two-labels-per-client-resnet18-number-{i}") for i in range(6)]
    figure = plot.compare(runs)
    figure.draw_without_rendering()
    right = figure.axes[-1]
    boxes = [label.get_window_extent() for label in right.get_yticklabels()]
    assert all(not a.overlaps(b) for a, b in pairwise(boxes))
    assert all(not box.overlaps(axes.bbox) for box in boxes for axes in figure.axes[:-1])
    texts = [*right.texts, *figure.legends[0].get_texts(), *right.get_yticklabels(), *figure.axes[0].get_yticklabels()]
    for text in texts:
        box = text.get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= figure.bbox.width
        assert 0 <= box.y0 <= box.y1 <= figure.bbox.height
    assert not figure.legends[0].get_window_extent().overlaps(right.xaxis.label.get_window_extent())


@pytest.fixture
def federation() -> Federation:
    """Three clients and a label that nobody holds; the last client has nothing."""
    y = np.array([0, 0, 0, 1, 1, 1, 1, 3, 3, 0])
    return Federation(
        x=np.zeros((10, 2), np.float32),
        y=y,
        classes=4,
        scale=np.ones(1, np.float32),
        shift=np.zeros(1, np.float32),
        train=Shards.of([np.array([0, 1, 3]), np.array([4, 5, 6]), np.array([], np.int64)]),
        test=Shards.of([np.array([2]), np.array([7]), np.array([], np.int64)]),
        server_test=np.array([8, 9]),
        label_names=("cat", "dog", "cow", "hen"),
    )


def bubbles(figure: Figure) -> dict[tuple[int, int], float]:
    collection = next(item for item in figure.axes[0].collections if isinstance(item, PathCollection))
    places = np.asarray(collection.get_offsets())
    return {(int(x), int(y)): float(area) for (x, y), area in zip(places, collection.get_sizes())}


def test_bubbles_have_areas_proportional_to_training_and_test_samples(federation: Federation) -> None:
    areas = bubbles(plot.partition(federation))
    unit = areas[0, 1]
    assert {place: pytest.approx(area / unit) for place, area in areas.items()} == {
        (0, 0): 3,
        (0, 1): 1,
        (1, 1): 3,
        (1, 3): 1,
    }


def test_the_size_legend_is_drawn_to_the_bubbles_scale(federation: Federation) -> None:
    figure = plot.partition(federation)
    handles = figure.legends[0].legend_handles
    sizes = {int(text): handle.get_markersize() for text, handle in zip(legend(figure), handles)}  # type: ignore[union-attr]
    assert sizes == {
        1: pytest.approx(np.sqrt(bubbles(figure)[0, 1])),
        2: pytest.approx(np.sqrt(2 * bubbles(figure)[0, 1])),
    }


def test_bars_are_the_clients_sizes(federation: Federation) -> None:
    figure = plot.partition(federation)
    assert [bar.get_height() for bar in figure.axes[1].patches] == [4, 4, 0]  # type: ignore[attr-defined]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["cat", "dog", "cow", "hen"]
    assert figure.axes[1].get_title("left") == "Who holds what: 3 clients"


def test_of_many_clients_the_first_are_shown(federation: Federation) -> None:
    figure = plot.partition(federation, max_clients=1)
    assert set(bubbles(figure)) == {(0, 0), (0, 1)}
    assert figure.axes[1].get_title("left") == "Who holds what: the first 1 of 3 clients"
    with pytest.raises(ConfigError, match="max_clients = 0"):
        plot.partition(federation, max_clients=0)


def test_bubbles_do_not_touch() -> None:
    clients, classes = 50, 10
    y = np.repeat(np.arange(classes), clients)
    parts = [np.arange(classes) * clients + i for i in range(clients)]
    nothing = Shards.of([np.empty(0, np.int64)] * clients)
    one = np.ones(1, np.float32)
    figure = plot.partition(
        Federation(y[:, None].astype(np.float32), y, classes, one, one, Shards.of(parts), nothing, y[:0])
    )
    figure.draw_without_rendering()
    axes = figure.axes[0]
    points_between = np.diff(axes.transData.transform([(0, 0), (1, 1)]), axis=0)[0] * 72 / figure.dpi
    assert np.sqrt(max(bubbles(figure).values())) < points_between.min()


@pytest.mark.parametrize("name", ["a.png", "deep/er/a.SVG"])
def test_saved_pictures_are_the_same_bytes_every_time(make_run: MakeRun, tmp_path: Path, name: str) -> None:
    run = make_run()
    contents = []
    for folder in ("one", "two"):
        path = plot.save(plot.compare([run]), tmp_path / folder / name)
        assert path == tmp_path / folder / name
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert contents[0].startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")


def test_svg_texts_are_texts(make_run: MakeRun, tmp_path: Path) -> None:
    text = plot.save(plot.per_client([make_run()]), tmp_path / "a.svg").read_text()
    assert ">accuracy of each client</text>" in text
    assert "<dc:date>" not in text


def test_where_and_what_cannot_be_saved(make_run: MakeRun, tmp_path: Path) -> None:
    figure = plot.convergence([make_run()])
    for name in ("a.pdf", "a", "png"):
        with pytest.raises(ConfigError, match=r"must end in \.png or \.svg"):
            plot.save(figure, tmp_path / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot save a picture as .*file/a\.png"):
        plot.save(figure, tmp_path / "file" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConfigError, match="cannot save"):
        plot.save(figure, tmp_path / "folder.png")


def test_nothing_global_is_left_behind(make_run: MakeRun, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    with mpl.rc_context({"axes.grid": False, "font.size": 30.0}):
        small = plot.compare([make_run()])
        assert small.axes[0].xaxis.label.get_fontsize() == 10.0  # the user's own settings do not reach in
    plot.save(small, tmp_path / "a.svg")
    assert dict(mpl.rcParams) == before
