"""Our metrics on the inputs of published evaluations: the family "metrics" of `python -m vfm.interop.verify`.

Files: metrics.retrieval, metrics.captions, metrics.epic_mir and the questions of metrics.vos_tap_qa; other outputs are
not computed and say so. Rows are captions, columns videos.
"""

import json
from collections.abc import Callable

import numpy as np

from eval.metrics import captions, choices, meteor, multi_instance, published, ranks, retrieval
from eval.metrics.classification import softmax
from vfm.errors import UserError
from vfm.interop.golden import Golden

FAMILIES = ("metrics",)
TOLERANCE = 1e-5

Numbers = dict[str, np.ndarray | float]


def optional(golden: Golden, name: str) -> str:
    """Why an output may be left out; "" if it may not."""
    return meteor.unavailable() if "/METEOR" in name else ""


def _under(prefix: str, found: Numbers) -> Numbers:
    return {f"{prefix}/{name}": value for name, value in found.items()}


def _percent(places: np.ndarray, ks: tuple[int, ...]) -> Numbers:
    return {f"R{k}": 100 * float((places < k).mean()) for k in ks}


def _clip4clip(similarity: np.ndarray) -> Numbers:
    places = published.clip4clip_places(similarity)
    median = float(np.median(places)) + 1
    found = {"cols": places, "MR": median, "MedianR": median, "MeanR": float(places.mean()) + 1}
    return found | _percent(places, (1, 5, 10))


def _clip4clip_groups(similarity: np.ndarray, ends: np.ndarray) -> Numbers:
    video_of = np.searchsorted(ends, np.arange(len(similarity)), side="right")
    places = ranks.rank(similarity, video_of).entries()
    # Of an even number of ranks torch takes the lower of the two middle ones.
    lower = float(np.sort(places)[(len(places) - 1) // 2]) + 1
    forth = {"MR": lower, "MedianR": lower, "MeanR": float(places.mean()) + 1} | _percent(places, (1, 5, 10))
    groups = retrieval.caption_groups(similarity, video_of)
    found: Numbers = {
        "sim3d_padded": published.padded_groups(similarity, video_of, len(ends)),
        "v2t_sim": groups,
    }
    return (
        found | _under("t2v", forth | {"Std_Rank": float(places.std())}) | _under("v2t", _clip4clip(groups))
    )


def _frozen(similarity: np.ndarray, mask: np.ndarray | None) -> Numbers:
    mask = None if mask is None else mask.reshape(-1).astype(bool)
    forth = published.frozen_text_to_video(similarity, mask)
    back = published.frozen_video_to_text(similarity, mask)
    return _under("t2v", published.frozen_summary(forth)) | _under("v2t", published.frozen_summary(back))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _xpool(inputs: dict[str, np.ndarray]) -> Numbers:
    video_of = inputs["video_id_of_text"]
    texts, videos = _unit(inputs["text_embeds"]), _unit(inputs["vid_embeds"])
    similarity = texts @ videos.T if videos.ndim == 2 else np.einsum("td,vtd->tv", texts, videos)
    count = len(videos)
    padded = published.padded_groups(similarity, video_of, count)
    padded[np.isneginf(padded)] = np.nan  # as normalising a text of -inf gives
    both = {
        "t2v": ranks.rank(similarity, video_of).entries(),
        "v2t": ranks.rank(retrieval.caption_groups(similarity, video_of)).entries(),
    }
    out: Numbers = {"sims": padded}
    for way, places in both.items():
        found = {"MedR": float(np.median(places)) + 1, "MeanR": float(places.mean()) + 1}
        out |= _under(way, found | _percent(places, (1, 5, 10, 50, 100)))
    return out


def _xpool_train(inputs: dict[str, np.ndarray]) -> Numbers:
    texts = _unit(inputs["text_embeds"])
    pooled = np.einsum("td,vtd->tv", texts, _unit(inputs["vid_embeds_pooled"]))
    return {"sims_avg": texts @ _unit(inputs["vid_embeds_avg"]).T, "sims_transformer": pooled}


def _itm(inputs: dict[str, np.ndarray]) -> Numbers:
    video_of = inputs["video_of_text"]
    right = np.arange(len(inputs["scores_v2t"]))[:, None] == video_of[None]
    # Texts (of a video) are "txt", videos (of a text) are "img".
    ways = {
        "txt": ranks.rank(inputs["scores_v2t"], right),
        "img": ranks.rank(inputs["scores_t2v"], video_of),
    }
    out: Numbers = {}
    for way, found in ways.items():
        recalls = [100 * float(found.hits(k).mean()) for k in (1, 5, 10)]
        out |= {f"{way}_r{k}": round(r, 2) for k, r in zip((1, 5, 10), recalls, strict=True)}
        out[f"{way}_r_mean"] = float(np.mean(recalls))
    out["r_mean"] = round((out["txt_r_mean"] + out["img_r_mean"]) / 2, 2)
    return out | {f"{way}_r_mean": round(out[f"{way}_r_mean"], 2) for way in ways}


def _dual_softmax(similarity: np.ndarray) -> Numbers:
    similarity = similarity.astype(np.float64)
    out: Numbers = {
        f"camoe_loss_temp{t}": published.dual_softmax_loss_rows(similarity, t) for t in (1, 100, 1000)
    }
    out["egovlp_epic"] = published.egovlp_dual_softmax(similarity)
    for way, scores in (("v2t", similarity), ("t2v", similarity.T)):
        # Rows are videos here. Its evaluation adds a softmax over candidates, which no rank depends on.
        scores = retrieval.dual_softmax(scores)
        out[f"internvideo2_{way}_scores_dsl"] = softmax(scores)
        places = ranks.rank(scores).entries()
        out |= _under(f"iv2_{way}", _percent(places, (1, 5, 10)) | {"MeanR": float(places.mean()) + 1})
    return out


def _retrieval(golden: Golden) -> Numbers:
    cases: dict[str, dict[str, np.ndarray]] = {}
    for name, value in golden.inputs.items():
        case, _, rest = name.partition("/")
        cases.setdefault(case, {})[rest] = value
    out: Numbers = {}
    for case, inputs in cases.items():
        if case == "c4c_multi":
            found = _clip4clip_groups(inputs["sim"], inputs["cut_off_points"])
        elif case.startswith("c4c_"):
            found = _under("t2v", _clip4clip(inputs["sim"])) | _under("v2t", _clip4clip(inputs["sim"].T))
        elif case.startswith("fit_"):
            found = _frozen(inputs["sim"], inputs.get("query_mask"))
        elif case == "xpool_train":
            found = _xpool_train(inputs)
        else:
            found = {"itm_eval": _itm, "dsl": lambda i: _dual_softmax(i["sim"])}.get(case, _xpool)(inputs)
        out |= _under(case, found)
    return out


def _captions(golden: Golden) -> Numbers:
    ids = json.loads(golden.metadata["order_ids"])
    said, references = (json.loads(golden.metadata[k]) for k in ("hyps_tok", "refs_tok"))
    parts = {"all": ids, "single_item": ids[:1], "without_degenerate": [ids[0], *ids[4:]]}
    out: Numbers = {}
    for part, chosen in parts.items():
        mine = [said[i][0].split() for i in chosen]
        theirs = [[r.split() for r in references[i]] for i in chosen]
        found = captions.scores(mine, theirs)
        if not meteor.unavailable():
            found["METEOR"] = meteor.meteor(mine, theirs)
        for name, (corpus, each) in found.items():
            name = {"CIDEr-D": "CIDEr", "ROUGE-L": "ROUGE_L"}.get(name, name).replace("BLEU-", "Bleu_")
            out |= {f"{part}/{name}": corpus, f"{part}/{name}_each": each}
    return out


def _multi_instance(golden: Golden) -> Numbers:
    inputs, out = golden.inputs, {}
    for case in dict.fromkeys(n.partition("/")[0] for n in inputs if n.startswith("mir_")):
        s, r = (inputs[f"{case}/{n}"].astype(np.float64) for n in ("sim_video_by_text", "relevancy"))
        best = multi_instance.dcg(r, r)
        gains = multi_instance.dcg(s, r)
        with np.errstate(invalid="ignore"):
            each = gains / best
        out |= _under(
            case,
            {
                "DCG_V2T": gains,
                "IDCG_V2T": best,
                "k_counts_V2T": multi_instance.gains_counted(r),
                "nDCG_V2T_each": each,
                "nDCG_V2T": float(each.mean()),
                "nDCG_T2V": float(multi_instance.ndcg(s.T, r.T).mean()),
                "mAP_V2T": float(multi_instance.average_precision(s, r).mean()),
                "mAP_T2V": float(multi_instance.average_precision(s.T, r.T).mean()),
            },
        )
    sets = {
        side: [set(np.flatnonzero(row)) for row in inputs[f"relevancy/{side}_nouns_multihot"]]
        for side in ("video", "sentence")
    }
    verbs = inputs["relevancy/video_verb"], inputs["relevancy/sentence_verb"]
    nouns = sets["video"], sets["sentence"]
    return out | {
        "relevancy/verb_iou": (verbs[0][:, None] == verbs[1][None]).astype(np.float64),
        "relevancy/noun_iou": multi_instance.overlap(*nouns),
        "relevancy/caption": multi_instance.caption_relevancy(verbs, nouns),
    }


def _questions(golden: Golden) -> Numbers:
    told = {k: json.loads(v) for k, v in golden.metadata.items() if k.startswith("qa_")}
    said = {row["question_id"]: row["answer"] for row in told["qa_exact_pred"]}
    # The original compares texts as they are; a question without an answer is wrong.
    equal = [said.get(row["question_id"]) == row["answer"] for row in told["qa_exact_gt"]]
    out: Numbers = {"qa_exact/overall_percent": round(100 * float(np.mean(equal)), 2)}
    clips = golden.inputs["qa_mc/clip_scores(clips,questions*options)"]
    answers = golden.inputs["qa_mc/answers"]
    scores = clips.reshape(len(clips), len(answers), -1).astype(np.float64)
    for how in ("mean", "max", "lse"):
        chosen = choices.pooled_choice(scores, how)
        out |= {
            f"qa_mc/{how}_pred": chosen,
            f"qa_mc/{how}_acc": round(100 * float((chosen == answers).mean()), 2),
        }
    answered = {row["question_id"]: row["answer"] for row in told["qa_vqa_pred"]}
    rows = told["qa_vqa_gt"]
    found = choices.vqa_scores([answered[r["question_id"]] for r in rows], [r["answer"] for r in rows])
    kinds = np.array([r["answer_type"] for r in rows])
    out["qa_vqa/overall"] = round(100 * float(found.mean()), 2)
    for kind in np.unique(kinds):
        name = str(kind).replace("/", "-")
        out[f"qa_vqa/{name}"] = round(100 * float(found[kinds == kind].mean()), 2)
    return out


KINDS: dict[str, Callable[[Golden], Numbers]] = {
    "retrieval": _retrieval,
    "captions": _captions,
    "epic_mir": _multi_instance,
    "vos_tap_qa": _questions,
}


def evaluate(golden: Golden) -> dict[str, np.ndarray]:
    """The file's outputs as far as we compute them.

    Raises:
      UserError: a file of metrics that are not here.
    """
    if golden.variant not in KINDS:
        raise UserError(f"{golden.path}: no metrics '{golden.variant}'; there are: {', '.join(KINDS)}")
    return {f"output/{name}": np.asarray(value) for name, value in KINDS[golden.variant](golden).items()}
