"""Metrics are exact counts: equal to scikit-learn, to the golden numbers, and blind to padding."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn import metrics as sk

from eval import knn
from eval.metrics import classification as m


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    return rng.normal(size=(57, 6)).astype(np.float32), rng.integers(0, 6, 57)


def test_equals_scikit_learn(scores):
    x, y = scores
    predictions = x.argmax(1)
    confusion = m.confusion_matrix(predictions, y, 6)
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(y, predictions, labels=range(6)))
    assert m.mean_class_accuracy(confusion) == pytest.approx(sk.balanced_accuracy_score(y, predictions))
    recall = sk.recall_score(y, predictions, average=None, zero_division=0)
    np.testing.assert_allclose(m.per_class_accuracy(confusion), recall)
    for k in (1, 2, 5):
        assert m.top_k_accuracy(x, y, k) == pytest.approx(sk.top_k_accuracy_score(y, x, k=k, labels=range(6)))


def test_padding_never_counts(scores):
    x, y = scores
    junk = np.full((7, 6), np.nan, np.float32)
    padded, labels = np.concatenate([x, junk]), np.concatenate([y, np.full(7, -1)])
    mask = np.r_[np.ones(57), np.zeros(7)]
    assert m.top_k_counts(padded, labels, 2, mask) == m.top_k_counts(x, y, 2)
    predictions = np.r_[x.argmax(1), np.full(7, 3)]
    np.testing.assert_array_equal(
        m.confusion_matrix(predictions, labels, 6, mask), m.confusion_matrix(x.argmax(1), y, 6)
    )


def test_bad_values_are_refused(scores):
    x, y = scores
    with pytest.raises(ValueError, match="NaN"):
        m.top_k_accuracy(np.full_like(x, np.nan), y)
    with pytest.raises(ValueError, match="labels"):
        m.top_k_accuracy(x, y + 1)
    with pytest.raises(ValueError, match="no example"):
        m.top_k_accuracy(x, y, mask=np.zeros(57))


@pytest.fixture(scope="module")
def golden(shared):
    return load_file(shared / "golden" / "metrics.classification.safetensors")


@pytest.mark.parametrize("case", ["plain", "small_k", "single", "five_classes", "ties", "all_equal"])
def test_top_k_equals_golden(golden, case):
    x, y = golden[f"input/{case}/logits"], golden[f"input/{case}/labels"]
    kinds = {"": "first", "_optimistic": "optimistic", "_pessimistic": "pessimistic"}
    kinds["_stable_first_index_wins"] = "first"
    checked = 0
    for k in (1, 2, 3, 5):
        for suffix, ties in kinds.items():
            key = f"output/{case}/top{k}{suffix}"
            if key in golden:
                assert 100 * m.top_k_accuracy(x, y, k, ties=ties) == pytest.approx(
                    float(golden[key]), abs=1e-4
                )
                checked += 1
    assert checked >= 6


def test_confusion_and_class_means_equal_golden(golden):
    x, y = golden["input/plain/logits"], golden["input/plain/labels"]
    confusion = m.confusion_matrix(x.argmax(1), y, x.shape[1])
    expected = golden["output/plain/confusion_matrix"]
    assert np.array_equal(confusion, expected) or np.array_equal(confusion.T, expected)
    expected = float(golden["output/plain/mean_class_accuracy_present_classes_only"])
    assert 100 * m.mean_class_accuracy(confusion) == pytest.approx(expected, abs=1e-4)


def test_view_average_equals_golden(golden):
    x, videos = golden["input/multiview/logits"], golden["input/multiview/video_labels"]
    order = np.argsort(golden["input/multiview/clip_ids"], kind="stable")
    averaged = m.average_views(x[order].reshape(len(videos), -1, x.shape[1]))
    np.testing.assert_array_equal(averaged.argmax(1), golden["output/multiview/mean_softmax_pred"])
    for k in (1, 5):
        expected = float(golden[f"output/multiview/mean_softmax_top{k}"])
        assert 100 * m.top_k_accuracy(averaged, videos, k) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("k", [1, 5, 10, 20, 100])
def test_knn_equals_golden(golden, k):
    bank, queries = golden["input/knn/train_features"], golden["input/knn/test_features"]
    labels, expected = golden["input/knn/train_labels"], golden["input/knn/test_labels"]
    similarity, rows = knn.nearest(queries, bank, k)
    votes = knn.votes(similarity, labels[rows], k, int(golden["input/knn/num_classes"]), 0.07)
    for top in (1, 5):
        if top <= k:
            wanted = float(golden[f"output/knn/k{k}_T0.07_top{top}"])
            assert 100 * m.top_k_accuracy(votes, expected, top) == pytest.approx(wanted, abs=1e-3)
