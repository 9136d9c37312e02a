"""Probes: they reach what is reachable, a grid equals its single runs, and only validation chooses."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from eval import knn, labels, probes
from eval.heads import Head
from eval.probes import Split
from vfm.errors import UserError

SETTINGS = dict(lr=(1e-3, 1e-2), weight_decay=(1e-3, 0.3), epochs=10, min_steps=60, batch_size=64)


def blobs(n, seed, width=8, classes=4, noise=0.3):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    y = (np.arange(n) % classes).astype(np.int32)
    return Split((centres[y] + noise * rng.normal(size=(n, width))).astype(np.float32)[:, None], y)


def token_blobs(n, seed, tokens=6):
    """The class is written in one token of six, at a random place: a mean pool dilutes it."""
    flat = blobs(n, seed, noise=0.1)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 1, tokens, 8)).astype(np.float16)
    x[np.arange(n), 0, rng.integers(0, tokens, n)] = 3 * flat.x[:, 0]
    return Split(x, flat.labels)


@pytest.fixture(scope="module")
def splits():
    return {"train": blobs(200, 1), "validation": blobs(83, 2), "test": blobs(101, 3)}


def everything(split, seeds=2):
    return np.tile(np.arange(len(split)), (seeds, 1))


def test_linear_probe_reaches_a_separable_optimum(splits):
    outcome = probes.probe(Head("linear", 8), splits, everything(splits["train"]), [0, 1], SETTINGS, 4)
    reference = LogisticRegression(max_iter=500).fit(splits["train"].x[:, 0], splits["train"].labels)
    best = reference.score(splits["test"].x[:, 0], splits["test"].labels)
    assert best > 0.97
    assert (outcome.accuracy >= best - 0.02).all()
    assert outcome.predictions.shape == (2, 101)


def test_attentive_probe_finds_the_token_that_matters():
    sets = {"train": token_blobs(400, 1), "validation": token_blobs(80, 2), "test": token_blobs(80, 3)}
    settings = SETTINGS | dict(lr=(1e-2,), weight_decay=(0.01,), min_steps=150)
    outcome = probes.probe(Head("attentive", 8, 2), sets, everything(sets["train"], 1), [0], settings, 4)
    assert outcome.accuracy[0] > 0.9


def test_attentive_head_equals_plain_cross_attention():
    """The head folds key and value kernels into its single query; the textbook form gives the same logits."""
    head = Head("attentive", 8, 2)
    params = head.init(jax.random.key(0), 4)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: np.asarray(p) + 0.3 * rng.normal(size=p.shape).astype(np.float32), params)
    x = rng.normal(size=(3, 5, 8)).astype(np.float32)
    p = params["pooler"]

    def norm(v, q):
        v = (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-6)
        return v * q["scale"] + q["bias"]

    z = norm(x, p["norm1"])
    query = p["query"] @ p["q"]["kernel"] + p["q"]["bias"]
    keys, values = z @ p["kv"]["k"], z @ p["kv"]["v"] + p["kv"]["v_bias"]
    attended = np.zeros((3, 1, 8), np.float32)
    for h in (slice(0, 4), slice(4, 8)):
        logits = np.einsum("qs,bns->bqn", query[:, h], keys[..., h]) / 2
        attended[..., h] = jax.nn.softmax(logits) @ values[..., h]
    y = p["query"] + attended
    hidden = norm(y, p["norm2"]) @ p["mlp"]["fc1"]["kernel"] + p["mlp"]["fc1"]["bias"]
    hidden = np.asarray(jax.nn.gelu(hidden, approximate=False))
    y = (y + hidden @ p["mlp"]["fc2"]["kernel"] + p["mlp"]["fc2"]["bias"])[:, 0]
    expected = y @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(head.apply(params, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", [Head("linear", 8), Head("attentive", 8, 2)], ids=lambda h: h.kind)
def test_grid_equals_single_runs(head):
    train = token_blobs(90, 1) if head.kind == "attentive" else blobs(90, 1)
    grid = probes.grid_points((1e-3, 1e-2), (0.0, 0.3))
    subsets = np.stack([labels.subset(train.labels, 10, seed) for seed in (0, 5)])
    schedule = dict(epochs=0.5, min_steps=20, batch_size=16)
    together = probes.train_heads(head, train, subsets, [0, 5], grid, 4, **schedule)
    for s, seed in enumerate((0, 5)):
        for g, point in enumerate(grid):
            alone = probes.train_heads(head, train, subsets[s : s + 1], [seed], [point], 4, **schedule)
            jax.tree.map(
                lambda a, b, s=s, g=g: np.testing.assert_allclose(a[s, g], b[0, 0], rtol=2e-4, atol=2e-5),
                together,
                alone,
            )


def test_features_too_large_for_the_device_train_the_same_heads(monkeypatch):
    train, head = token_blobs(90, 1), Head("attentive", 8, 2)
    run = lambda: probes.train_heads(  # noqa: E731
        head, train, everything(train), [0, 1], [dict(lr=1e-2, weight_decay=0.1)], 4,
        epochs=1, min_steps=10, batch_size=16,
    )  # fmt: skip
    whole = run()
    monkeypatch.setattr(probes, "RESIDENT", 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole, run())


def test_seeds_differ_and_repeat(splits):
    def run():
        subsets = np.stack([labels.subset(splits["train"].labels, 5, s) for s in (0, 1)])
        grid = probes.grid_points((1e-2,), (0.1,))
        head = Head("linear", 8)
        return probes.train_heads(
            head, splits["train"], subsets, [0, 1], grid, 4, epochs=1, min_steps=20, batch_size=8
        )["head"]["kernel"]

    first, second = run(), run()
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first[0], first[1])


def test_only_validation_chooses(splits):
    """Labels of validation are rotated for strong heads to be wrong there; test would choose otherwise."""
    rotated = Split(splits["validation"].x, (splits["validation"].labels + 1) % 4)
    sets = splits | {"validation": rotated}
    settings = SETTINGS | dict(lr=(1e-9, 1e-2), weight_decay=(0.0,))
    outcome = probes.probe(Head("linear", 8), sets, everything(splits["train"]), [0, 1], settings, 4)
    assert [c["lr"] for c in outcome.chosen] == [1e-9, 1e-9]
    assert (outcome.accuracy < 0.9).all()
    honest = probes.probe(Head("linear", 8), splits, everything(splits["train"]), [0, 1], settings, 4)
    assert [c["lr"] for c in honest.chosen] == [1e-2, 1e-2]


def test_equal_counts_are_settled_by_the_loss():
    probabilities = np.array([[[[0.6, 0.4], [0.4, 0.6]], [[0.9, 0.1], [0.1, 0.9]]]])
    best, accuracy = probes.choose(probabilities, np.array([0, 1]))
    assert best.tolist() == [1] and accuracy.tolist() == [1.0]


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_batch_size_and_padding_do_not_change_predictions(batch):
    x = np.random.default_rng(0).normal(size=(29, 3, 5, 8)).astype(np.float32)
    head = Head("attentive", 8, 2)
    params = jax.tree.map(lambda p: p[None, None], head.init(jax.random.key(0), 4))
    split = Split(x, np.zeros(29, np.int32))
    out = probes.predict(head, params, split, batch)
    assert out.shape == (1, 1, 29, 4)
    np.testing.assert_allclose(out, probes.predict(head, params, split, 29 * 3), atol=1e-6)


def test_views_are_averaged_after_the_softmax():
    x = np.random.default_rng(0).normal(size=(5, 3, 8)).astype(np.float32)
    params = Head("linear", 8).init(jax.random.key(0), 4)
    params["head"]["kernel"] *= 100
    stacked = jax.tree.map(lambda p: p[None, None], params)
    out = probes.predict(Head("linear", 8), stacked, Split(x, np.zeros(5, np.int32)))[0, 0]
    expected = jax.nn.softmax(Head("linear", 8).apply(params, x)).mean(1)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-6)


def test_knn_equals_plain_numpy_and_scikit_learn(splits):
    train, validation, test = (splits[n] for n in ("train", "validation", "test"))
    unit = [x.x[:, 0] / np.linalg.norm(x.x[:, 0], axis=1, keepdims=True) for x in (train, test)]
    similarity = unit[1] @ unit[0].T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :20]
    votes = np.zeros((len(test), 4))
    for i, row in enumerate(order):
        for j in row:
            votes[i, train.labels[j]] += np.exp(similarity[i, j] / 0.07)
    predictions, k, _ = knn.classify(
        train.x[:, 0],
        train.labels,
        (validation.x[:, 0], validation.labels),
        test.x[:, 0],
        ks=(20,),
        classes=4,
        temperature=0.07,
    )
    assert k == 20
    np.testing.assert_array_equal(predictions, votes.argmax(1))

    def weights(distance):  # cosine distances
        return np.exp((1 - distance) / 0.07)

    reference = KNeighborsClassifier(20, weights=weights, metric="cosine").fit(train.x[:, 0], train.labels)
    np.testing.assert_array_equal(predictions, reference.predict(test.x[:, 0]))


def test_knn_chooses_k_on_validation_and_caps_it(splits):
    train, validation = splits["train"], splits["validation"]
    common = dict(ks=(1, 10, 5000), classes=4, temperature=0.07)
    _, k, accuracy = knn.classify(
        train.x[:, 0], train.labels, (validation.x[:, 0], validation.labels), splits["test"].x[:, 0], **common
    )
    assert k in (1, 10, 200) and 0.9 < accuracy <= 1


def test_few_label_subsets_are_balanced_nested_and_repeatable():
    y = np.random.default_rng(0).integers(0, 5, 400)
    small, large = labels.subset(y, 5, 3), labels.subset(y, 25, 3)
    assert np.bincount(y[large]).tolist() == [25] * 5
    assert set(small) <= set(large)
    np.testing.assert_array_equal(small, labels.subset(y, 5, 3))
    assert not np.array_equal(small, labels.subset(y, 5, 4))
    assert len(labels.subset(y, "all", 0)) == 400


def test_a_class_with_few_clips_gives_all_of_them():
    y = np.array([0] * 30 + [1] * 4)
    assert np.bincount(y[labels.subset(y, 10, 0)]).tolist() == [10, 4]
    assert labels.short_classes(y, 10) == [1]


@pytest.mark.parametrize("bad, split, text", [([0, 7], "test", "label 7"), ([], "test", "no readable clip")])
def test_bad_labels_are_named(bad, split, text):
    with pytest.raises(UserError, match=text):
        labels.check(np.array(bad, int), 4, "digit", split)


def test_a_class_without_training_clip_is_named():
    with pytest.raises(UserError, match="class 3 .* no clip in the training"):
        labels.check_present(np.array([0, 3]), np.array([0, 1]), "digit", "test")
