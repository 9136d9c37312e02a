"""Retrieval metrics: worked examples, what no order of rows may change, and the numbers of published evaluations."""

import numpy as np
import pytest

from eval import originals
from eval.metrics import choices, multi_instance, ranks, retrieval
from vfm.interop.verify import verify

S = np.array([[0.9, 0.2, 0.1], [0.3, 0.5, 0.6], [0.0, 0.4, 0.8]])


def test_worked_example():
    found = retrieval.both_ways(S)
    assert found["text_to_video"].entries().tolist() == [0, 1, 0]
    assert found["video_to_text"].entries().tolist() == [0, 0, 0]
    summary = ranks.summary(found["text_to_video"])
    assert summary["R@1"] == pytest.approx(2 / 3, abs=1e-12)
    assert summary["MnR"] == pytest.approx(4 / 3, abs=1e-12) and summary["MdR"] == 1
    scores = retrieval.dual_softmax(S, 100.0)
    assert ranks.summary(ranks.rank(scores))["R@1"] == 1.0


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_equal_similarities_score_as_chance_does(n):
    constant = np.full((n, n), 0.5)
    average = ranks.rank(constant)
    for k in (1, 5, 10):
        assert average.hits(k).mean() == pytest.approx(min(k / n, 1), abs=1e-12)
        assert average.chance(k) == pytest.approx(min(k / n, 1), abs=1e-12)
    assert (average.entries() == (n - 1) / 2).all()
    assert ranks.rank(constant, ties="pessimistic").hits(1).mean() == (1.0 if n == 1 else 0.0)
    assert ranks.rank(constant, ties="optimistic").hits(1).mean() == 1.0
    assert len(ranks.rank(constant, ties="every").entries()) == n * n
    assert ranks.constant_rows(constant) == (n if n > 1 else 0)
    assert ranks.constant_rows(S) == 0


def test_several_right_candidates_of_equal_score():
    right = np.zeros((1, 6), bool)
    right[0, [1, 4]] = True
    found = ranks.rank(np.zeros((1, 6)), right)
    draws = np.array([np.random.default_rng(i).permutation(6) for i in range(20_000)])
    first = np.minimum((draws == 1).argmax(1), (draws == 4).argmax(1))
    for k in (1, 2, 3, 5):
        assert found.hits(k)[0] == pytest.approx((first < k).mean(), abs=0.015)
        assert found.hits(k)[0] == pytest.approx(found.chance(k), abs=1e-12)
    assert found.entries()[0] == pytest.approx(first.mean(), abs=0.03)


def test_no_order_of_rows_matters():
    rng = np.random.default_rng(0)
    s = rng.normal(size=(40, 12)).round(1)  # with ties
    video_of = rng.integers(0, 12, 40)
    video_of[:12] = np.arange(12)
    rows, columns = rng.permutation(40), rng.permutation(12)
    for ties in ("average", "optimistic", "pessimistic"):
        before = retrieval.both_ways(s, video_of, ties)
        after = retrieval.both_ways(s[rows][:, columns], np.argsort(columns)[video_of[rows]], ties)
        for way in retrieval.DIRECTIONS:
            assert ranks.summary(before[way]) == pytest.approx(ranks.summary(after[way]))


def test_a_duplicated_video_only_adds_ties():
    rng = np.random.default_rng(1)
    s = rng.normal(size=(10, 10))
    twice = np.concatenate([s, s[:, 3:4]], axis=1)
    before, after = ranks.rank(s), ranks.rank(twice, np.arange(10))
    assert (np.delete(after.tied, 3) == np.delete(before.tied, 3)).all() and after.tied[3] == 1
    assert (after.above[3], after.hits(1)[3]) == (before.above[3], before.hits(1)[3] / 2)
    both = np.eye(10, 11, dtype=bool)
    both[3, 10] = True
    assert ranks.rank(twice, both).hits(1)[3] == before.hits(1)[3]


@pytest.mark.parametrize("where", [0, 2])
def test_a_row_with_nan_raises(where):
    s = S.copy()
    s[where, 1] = np.nan
    for call in (ranks.rank, retrieval.both_ways, retrieval.dual_softmax, lambda x: retrieval.nearest(x, 2)):
        with pytest.raises(ValueError, match=f"NaN in 1 of 3 rows, first in row {where}"):
            call(s)
    with pytest.raises(ValueError, match="NaN"):
        choices.choice_hits(s, np.zeros(3, int))
    with pytest.raises(ValueError, match="NaN"):
        multi_instance.ndcg(s, np.eye(3))


def test_what_cannot_be_ranked_is_said():
    with pytest.raises(ValueError, match="no right candidate"):
        ranks.rank(S, np.zeros((3, 3), bool))
    with pytest.raises(ValueError, match="not pairs"):
        ranks.rank(S[:2])
    with pytest.raises(ValueError, match="ties='lucky'"):
        ranks.rank(S, ties="lucky")
    with pytest.raises(ValueError, match="expected 3 indices in 0..2"):
        ranks.rank(S, np.array([0, 1, 3]))


def test_several_captions_of_a_video():
    s = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])  # captions 0 and 1 are video 0's
    found = retrieval.both_ways(s, np.array([0, 0, 1]))
    assert found["text_to_video"].entries().tolist() == [0, 1, 0]
    # Video 1 prefers a caption of video 0 to its own; video 0's two captions do not compete.
    assert found["video_to_text"].entries().tolist() == [0, 1]
    np.testing.assert_array_equal(retrieval.caption_groups(s, np.array([0, 0, 1])), [[0.9, 0.3], [0.8, 0.7]])


def test_captions_of_equal_words_are_one_query():
    first, right = retrieval.merge_captions(["a", "b", "a"], np.array([0, 1, 2]), 3)
    assert first.tolist() == [0, 1]
    np.testing.assert_array_equal(right, [[True, False, True], [False, True, False]])
    assert ranks.rank(np.zeros((2, 3)), right).chance(1) == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_chosen_candidates_come_first_in_the_order_of_their_scores():
    places = retrieval.nearest(S, 2)
    assert places.tolist() == [[0, 1], [2, 1], [2, 1]]
    new = retrieval.rerank(S, places, np.array([[0.0, 5.0], [1.0, 2.0], [9.0, 3.0]]))
    assert np.argsort(-new, axis=1).tolist() == [[1, 0, 2], [1, 2, 0], [2, 1, 0]]


def test_hubs_lose_weight_by_a_query_bank():
    s = np.array([[0.5, 0.6, 0.0], [0.1, 0.6, 0.2], [0.0, 0.6, 0.5]])  # video 1 is near to everything
    bank = np.array([[0.0, 0.9, 0.1], [0.1, 0.8, 0.0]])
    assert ranks.summary(ranks.rank(s))["R@1"] == pytest.approx(1 / 3)
    found = retrieval.query_bank_norm(s, bank, temperature=20.0)
    assert found.argmax(axis=1).tolist() == [0, 2, 2]
    far = retrieval.query_bank_norm(s, bank[:, ::-1][:, [1, 0, 2]], temperature=20.0)
    assert not np.array_equal(far, found)


def test_multi_instance_worked_examples():
    sim = np.array([[1, 0.7, 0.4, 0], [0.3, 0.9, 0.6, 0.1], [0.2, 0.5, 0.8, 0.4]])
    rel = np.array([[1, 0.5, 0.25, 0], [0, 1, 0.4, 0], [0.5, 0.3, 1, 0]])
    assert multi_instance.ndcg(sim, rel).mean() == pytest.approx(0.9371789900735429, abs=1e-9)
    sim = np.array([[0.9, 0.8, 0.1], [0.2, 0.7, 0.6]])
    rel = np.array([[0.5, 1, 0], [1, 0.5, 1]])
    graded = multi_instance.average_precision(sim, rel)
    np.testing.assert_allclose(graded, [0.75, 0.7916666666667], atol=1e-9)
    assert graded.mean() == pytest.approx(0.7708333333, abs=1e-9)
    assert multi_instance.average_precision(sim, rel, graded=False).mean() == pytest.approx(
        0.5416666667, abs=1e-9
    )
    with pytest.raises(ValueError, match="nothing is relevant to query 1"):
        multi_instance.ndcg(sim, rel * np.array([[1], [0]]))
    assert np.isnan(multi_instance.average_precision(sim, rel * 0.5)).all()


def test_ego_mcq_goes_by_the_types_own_values():
    rng = np.random.default_rng(0)
    text, videos = rng.normal(size=(4, 8)), rng.normal(size=(4, 5, 8))
    answers = np.array([0, 3, 2, 1])
    for i, a in enumerate(answers[:3]):
        videos[i, a] = text[i]
    videos[3, 0] = text[3]
    found = choices.ego_mcq(text, videos, answers, [2, 2, 2, 1])
    assert found["intra-video"] == (1.0, 3) and found["inter-video"] == (0.0, 1)
    assert found["all"] == (0.75, 4)
    assert "inter-video" not in choices.ego_mcq(text[:3], videos[:3], answers[:3], [2, 2, 2])


def test_equal_options_are_chosen_equally_often():
    hits = choices.choice_hits(np.array([[1.0, 1.0, 0.0], [0.0, 2.0, -np.inf]]), np.array([1, 1]))
    assert hits.tolist() == [0.5, 1.0]
    with pytest.raises(ValueError, match="not all in 0..2"):
        choices.choice_hits(S, np.array([0, 1, 3]))


@pytest.mark.parametrize("name", ["retrieval", "captions", "epic_mir"])
def test_published_evaluations_give_the_same_numbers(shared, name):
    checks = list(verify(str(shared / "golden" / f"metrics.{name}.safetensors")))
    assert len(checks) > 30
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]
    assert {check.name.rpartition("/")[2] for check in checks if check.left_out} <= {"METEOR", "METEOR_each"}


def test_published_scores_of_answers(shared):
    checks = list(verify(str(shared / "golden" / "metrics.vos_tap_qa.safetensors")))
    mine = [check for check in checks if check.name.startswith("output/qa_")]
    assert len(mine) == 11 and all(check.passed for check in mine), mine
    assert set(originals.KINDS) == {"retrieval", "captions", "epic_mir", "vos_tap_qa"}
