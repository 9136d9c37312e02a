"""Caption metrics: worked examples, edge cases, and words as the COCO evaluation makes them."""

import json

import numpy as np
import pytest
from safetensors import safe_open

from eval.metrics import captions, choices, meteor
from eval.metrics.words import first_named, normalise_answer, tokenise
from vfm.errors import UserError

REFERENCES = [
    ["a man is cutting a tomato", "a person slices a tomato"],
    ["a dog runs on the grass", "the dog is running outside"],
    ["two kids play football", "children playing soccer outside"],
]
SAID = ["a man is slicing a tomato", "a dog is running on the grass", "kids play soccer"]


def split(texts):
    return [t.split() if isinstance(t, str) else split(t) for t in texts]


def test_worked_example():
    found = captions.scores(split(SAID), split(REFERENCES))
    expected = [0.9374999998828, 0.8056292331878, 0.5796029172483, 7.262287068e-05]
    assert [found[f"BLEU-{n}"][0] for n in (1, 2, 3, 4)] == pytest.approx(expected, rel=1e-9)
    mean, each = found["ROUGE-L"]
    assert mean == pytest.approx(0.7234873699330834, abs=1e-12)
    np.testing.assert_allclose(each, [0.833333, 0.780051, 0.557078], atol=1e-6)
    mean, each = found["CIDEr-D"]
    assert mean == pytest.approx(2.6680709367593898, abs=1e-12)
    np.testing.assert_allclose(each, [2.775782, 3.611528, 1.616902], atol=1e-6)


def test_perfect_and_empty_captions():
    right = [mine[0] for mine in REFERENCES]
    found = captions.scores(split(right), split(REFERENCES))
    assert found["BLEU-4"][0] == pytest.approx(1.0) and found["ROUGE-L"][0] == pytest.approx(1.0)
    empty = captions.scores([[], *split(right[1:])], split(REFERENCES))
    for name, (corpus, each) in empty.items():
        assert each[0] == pytest.approx(0.0, abs=1e-3) and corpus < found[name][0], name
        assert np.isfinite(each).all()
    assert captions.scores([[]], split(REFERENCES[:1]))["BLEU-1"][0] < 1e-5
    # One clip alone: every word is in every document, so idf is 0.
    assert captions.cider_d(split(right[:1]), split(REFERENCES[:1]))[0] == 0.0


def test_order_of_clips_and_references_does_not_matter():
    forth = captions.scores(split(SAID), split(REFERENCES))
    back = captions.scores(split(SAID[::-1]), [r[::-1] for r in split(REFERENCES[::-1])])
    for name, (corpus, each) in forth.items():
        assert corpus == pytest.approx(back[name][0], rel=1e-12)
        np.testing.assert_allclose(each, back[name][1][::-1], rtol=1e-12)


def test_clips_without_references_are_errors():
    with pytest.raises(ValueError, match="clip 1 has no reference"):
        captions.bleu(split(SAID), [split(REFERENCES)[0], [], split(REFERENCES)[2]])
    with pytest.raises(ValueError, match="expected as many"):
        captions.rouge_l(split(SAID), split(REFERENCES[:2]))
    with pytest.raises(ValueError, match="is a text"):
        captions.cider_d(SAID, split(REFERENCES))


def test_words_are_those_of_the_original_tokenizer(shared):
    with safe_open(shared / "golden" / "metrics.captions.safetensors", "numpy") as file:
        told = {k: json.loads(v) for k, v in file.metadata().items() if k.endswith(("_raw", "_tok"))}
    for kind in ("refs", "hyps"):
        for key, texts in told[f"{kind}_raw"].items():
            assert [" ".join(tokenise(t)) for t in texts] == told[f"{kind}_tok"][key]


@pytest.mark.parametrize(
    "text, words",
    [
        ("A well-known dog, isn't it?", "a well-known dog is n't it"),
        (
            "The cat's toy; they've 3.5 \"red\" balls (really)...",
            "the cat 's toy they 've 3.5 red balls really",
        ),
        ("turns counter-clockwise -- slowly", "turns counter-clockwise slowly"),
        ("I can't, he'll; WE'RE", "i ca n't he 'll we 're"),
        ("", ""),
        ("¡olé! 猫", "¡ olé 猫"),
    ],
)
def test_tokens(text, words):
    assert " ".join(tokenise(text)) == words


def test_the_first_class_that_is_named_counts():
    motions = ["moves left", "moves to the lower left", "moves to the left", "grows"]
    assert first_named("A nine grows while a two moves left.", motions) == 3
    assert first_named("a two moves to the lower left", motions) == 1
    assert first_named("an eight overgrows", motions) == -1
    assert first_named("turns counter-clockwise", ["turns clockwise", "turns counter-clockwise"]) == 1
    assert first_named("a red car", ["red", "red car"]) == 1


def test_answers():
    assert normalise_answer(" The  Dog! ") == "dog"
    assert choices.exact_match(["a dog", "Two."], ["The dog", "three"]).tolist() == [1.0, 0.0]
    ten = ["yes"] * 2 + ["no"] * 8
    assert choices.vqa_scores(["yes"], [ten])[0] == pytest.approx(np.mean([1 / 3] * 2 + [2 / 3] * 8))


def test_meteor_without_its_program_is_an_error(monkeypatch):
    monkeypatch.setenv("METEOR_JAR", "/nowhere/meteor-1.5.jar")
    with pytest.raises(UserError, match="METEOR needs"):
        meteor.meteor([["a"]], [[["a"]]])


@pytest.mark.skipif(bool(meteor.unavailable()), reason=meteor.unavailable() or "there")
def test_meteor_by_its_program():
    corpus, each = meteor.meteor(split(["a dog runs", ""]), split([["a dog runs"], ["a cat"]]))
    assert each[0] == pytest.approx(1.0) and each[1] < 0.1 and 0 < corpus <= 1
