"""Graphs, their curvature and flow, and what reads them: known curvatures, invariances, parity, scikit-learn."""

import numpy as np
import pytest
import torch

from harken.cli import main
from harken.errors import InputError

pytest.importorskip("sklearn")
pytest.importorskip("ot")

from sklearn.base import clone

from harken.data.brain import Trials
from harken.models.brain import load_estimator
from harken.models.brain._eigenmap import Eigenmap, NeighbourGraph, weights_to
from harken.models.brain._ricci import ricci_curvature, ricci_flow, shortest_paths
from harken.models.brain.geometric import Geometry, GraphNet, GraphNetConfig, propagation, spectra
from harken.models.brain.geometric_classifier import UNLABELLED, GeometricClassifier


def points(nodes=20, features=6, seed=0):
    return np.random.default_rng(seed).standard_normal((nodes, features))


def edges_of(pairs):
    return np.array(sorted(tuple(sorted(pair)) for pair in pairs))


COMPLETE = edges_of([(i, j) for i in range(5) for j in range(i)])
CYCLE = edges_of([(i, (i + 1) % 8) for i in range(8)])
TREE = edges_of([(0, 1), (0, 2), (0, 3), *[(i, 3 * i + j) for i in (1, 2, 3) for j in (1, 2, 3)],
                 *[(i, 3 * i + j) for i in range(4, 13) for j in (1, 2, 3)]])  # fmt: skip


def test_curvature_of_known_graphs():
    assert ricci_curvature(COMPLETE, np.ones(10), 5) == pytest.approx(0.625)
    assert ricci_curvature(CYCLE, np.ones(8), 8) == pytest.approx(0, abs=1e-12)
    tree = ricci_curvature(TREE, np.ones(len(TREE)), 40)
    leaf = (TREE >= 13).any(1)
    assert tree[leaf] == pytest.approx(0.25)
    assert tree[~leaf & (TREE > 0).all(1)] == pytest.approx(-0.5)


def test_transport_is_exact_and_masses_in_common_may_stay():
    ot = pytest.importorskip("ot")
    geometry = Geometry.of(points(), neighbours=4, dimensions=3, iterations=0)
    found = ricci_curvature(geometry.edges, geometry.length, 20, laziness=0.3)
    distance = shortest_paths(geometry.edges, geometry.length, 20)
    weight = np.zeros((20, 20))
    for (x, y), length in zip(geometry.edges, geometry.length, strict=True):
        weight[x, y] = weight[y, x] = np.exp(-length)
    measure = 0.7 * weight / weight.sum(1, keepdims=True) + 0.3 * np.eye(20)
    plain = [1 - ot.emd2(measure[x], measure[y], distance) / distance[x, y] for x, y in geometry.edges]
    np.testing.assert_allclose(found, plain, atol=1e-9)


def test_the_flow_shrinks_clusters_stretches_the_bridge_and_keeps_the_total():
    pairs = [(i, j) for group in (range(5), range(5, 10)) for i in group for j in group if j < i]
    edges = edges_of([*pairs, (0, 5)])
    flow = ricci_flow(edges, np.ones(len(edges)), 10, iterations=5)
    bridge = (edges == [0, 5]).all(1)
    assert flow.length.sum() == pytest.approx(len(edges))
    assert flow.length[bridge][0] > 2 * flow.length[~bridge].mean()


def test_edges_without_length_and_lone_parts_do_no_harm():
    edges = edges_of([(0, 1), (1, 2), (0, 2), (3, 4)])
    found = ricci_flow(edges, np.array([0.0, 1.0, 1.0, 2.0]), 5, iterations=3)
    assert np.isfinite(found.length).all()
    assert np.isfinite(found.curvature).all()


def test_eigenvalues_lie_between_zero_and_two_and_count_components():
    two = np.kron(np.eye(2), np.ones((4, 4)) - np.eye(4))
    values = Eigenmap.of(two, 3).eigenvalues
    assert (np.abs(values) < 1e-9).sum() == 2
    values = Eigenmap.of(NeighbourGraph.of(points(), 4).adjacency, 3).eigenvalues
    assert values.min() >= 0
    assert values.max() <= 2 + 1e-12


def test_the_map_solves_its_equation_and_extends_to_its_own_nodes():
    graph = NeighbourGraph.of(points(), 5)
    made = Eigenmap.of(graph.adjacency, 3)
    degree = graph.adjacency.sum(1, keepdims=True)
    left = degree * made.coordinates - graph.adjacency @ made.coordinates
    np.testing.assert_allclose(left, degree * made.coordinates * made.eigenvalues[1:4], atol=1e-9)
    np.testing.assert_allclose(made.extended(graph.adjacency), made.coordinates, atol=1e-9)


def test_every_node_is_joined_even_far_away_and_doubled():
    x = np.concatenate((points(), points()[:3], 1e3 * np.ones((1, 6))))
    graph = NeighbourGraph.of(x, 3)
    assert ((graph.adjacency > 0).sum(1) >= 3).all()
    assert weights_to(np.full((1, 6), 1e6), x, graph).sum() > 0
    np.testing.assert_array_equal(graph.adjacency, graph.adjacency.T)


def test_a_graph_network_does_not_care_in_which_order_nodes_come():
    torch.manual_seed(0)
    geometry = Geometry.of(points(12), neighbours=3, dimensions=3, iterations=2)
    spread = torch.from_numpy(propagation(geometry.edges, geometry.final_length, 12)).float()
    nodes, order = torch.randn(12, 3), torch.randperm(12)
    pooled, single = GraphNet(GraphNetConfig()).eval(), GraphNet(GraphNetConfig(pooled=False)).eval()
    shuffled = spread[order][:, order]
    torch.testing.assert_close(pooled(nodes[order], shuffled), pooled(nodes, spread))
    torch.testing.assert_close(single(nodes[order], shuffled), single(nodes, spread)[order])


def test_spectra_do_not_care_for_offsets():
    x = points(4, 64)
    np.testing.assert_allclose(spectra(x + 7), spectra(x), atol=1e-9)
    assert spectra(x).std(-1) == pytest.approx(1)


def trials(count=60, channels=1):
    drawn = np.random.default_rng(0)
    y = np.arange(count) % 2
    x = drawn.standard_normal((count, channels, 128)) * 1e-6
    beat = np.sin(2 * np.pi * 10 * np.arange(128) / 128 + drawn.uniform(0, 6, (count, 1)))
    x[:, 0] += 1.5e-6 * y[:, None] * beat
    return x.astype(np.float32), np.array(["rest", "beat"])[y]


def quick(**options):
    return GeometricClassifier(**{"epochs": 60, "neighbours": 5, "dimensions": 3, "iterations": 1, **options})


@pytest.mark.parametrize(("nodes", "channels"), [("trials", 1), ("channels", 5)])
def test_it_learns_saves_and_loads(nodes, channels, tmp_path):
    x, y = trials(30 + 30 * channels, channels)
    x, y, new, of_new = x[:-20], y[:-20], x[-20:], y[-20:]
    carries = "both" if nodes == "trials" else "spectrum"
    model = clone(quick(nodes=nodes, carries=carries)).fit(x, y)
    assert model.score(new, of_new) > 0.75
    model.save(tmp_path)
    again = load_estimator(tmp_path)
    np.testing.assert_array_equal(again.predict_proba(new), model.predict_proba(new))


def test_unlabelled_trials_get_labels():
    x, y = trials(80)
    number = (y == "beat").astype(int)
    given = np.where(np.arange(80) < 16, number, UNLABELLED)
    model = quick(validation=0.0).fit(x, given)
    assert (model.transduction_[:16] == number[:16]).all()
    assert (model.transduction_[16:] == number[16:]).mean() > 0.8
    assert model.classes_.tolist() == [0, 1]


def test_one_new_trial_is_read_like_a_row_of_many():
    x, y = trials()
    model = quick().fit(x[:40], y[:40])
    np.testing.assert_allclose(model.predict_proba(x[40:])[3:4], model.predict_proba(x[43:44]), atol=1e-5)


@pytest.mark.border
def test_bad_graphs_are_refused_in_one_line():
    x, y = trials(channels=2)
    for options, message in [
        ({"nodes": "rooms"}, "expected nodes of"),
        ({"nodes": "channels"}, "3 channels or more"),
        ({"neighbours": 500}, "neighbours among"),
        ({"dimensions": 500}, "dimensions of"),
        ({"step": 5.0}, "a step in"),
        ({"laziness": 1.0}, "a laziness in"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            quick(**options).fit(x, y)
        assert "\n" not in str(caught.value)


def test_the_command_compares_draws_and_keeps_a_decoder(tmp_path, capsys):
    x, y = trials()
    Trials(x, (y == "beat").astype(int), ("rest", "beat"), 128.0).save(tmp_path / "a.npz")
    call = ["brain", "geometric", str(tmp_path / "a.npz"), "--folds", "2", "--neighbours", "5", "--dimensions", "3"]
    more = ["--iterations", "1", "--plot", str(tmp_path / "a.png"), "--save", str(tmp_path / "decoder"), "-q"]
    assert main([*call, *more]) == 0
    assert "geometric" in capsys.readouterr().out
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert load_estimator(tmp_path / "decoder").classes_.tolist() == ["beat", "rest"]
