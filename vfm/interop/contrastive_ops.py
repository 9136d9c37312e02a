"""Contrastive, matching and masked-word losses as single operations, against the numbers of the originals' code.

One file holds cases of many repositories: a case is the first part of a name, its originals are in the file's notes.
Letters: B pairs, E embedding size.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vfm import losses, similarity_losses
from vfm.contrastive import infonce, sigmoid, unit
from vfm.interop.golden import Golden, keyed
from vfm.objectives import fusion
from vfm.ops.dot import matmul

FAMILIES = ("objectives",)
TOLERANCE = 1e-5
# A bias that all logits share cannot change a softmax: the original's gradient of 6e-9 is rounding.
NOISY = {"objectives.contrastive": {"output/clip/clip_loss_with_bias_grad_bias": 100.0}}
Case = dict[str, jax.Array]
Cases = dict[str, Case]


def evaluate(golden: Golden) -> dict[str, Any]:
    """Outputs of our losses on a golden file's inputs."""
    inputs = dict(golden.inputs)
    if "sms/relevancy_matrix" in inputs:
        # In float64, as the original: where it rounds down is no matter of float32's last digit.
        relevancy = inputs["sms/relevancy_matrix"].astype(np.float64)
        inputs["sms/relevancy_matrix"] = similarity_losses.quantised(relevancy).astype(np.float32)
    return jax.jit(_evaluate)(inputs)


def _evaluate(inputs: Case) -> Case:
    cases: Cases = {}
    for name, value in inputs.items():
        case, _, key = name.partition("/")
        cases.setdefault(case, {})[key] = value
    found = {}
    for case, function in CASES.items():
        if case in cases:
            found |= {f"{case}/{name}": value for name, value in function(cases).items()}
    return keyed(output=found)


def _clip(cases: Cases) -> Case:
    case = cases["clip"]
    image, text = case["image_features"], case["text_features"]
    scale, bias = case["logit_scale"], case["logit_bias"]

    def contrast(image, text, scale, bias):
        # Added to both directions; `infonce` leaves it out, as it is no matter.
        return similarity_losses.both_directions(scale * image @ text.T + bias)

    losses = {
        "clip_loss": lambda *x: infonce(x[1], x[0], x[2])[0],
        "clip_loss_with_bias": contrast,
        "siglip_loss": lambda *x: sigmoid(x[1], x[0], *x[2:])[0],
    }
    found = {}
    for name, loss in losses.items():
        value, grads = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(image, text, scale, bias)
        found[name] = value
        found |= {
            f"{name}_grad_{of}": g for of, g in zip(("image", "text", "scale", "bias"), grads, strict=True)
        }
    teacher = 1.5 * scale * unit(image + 0.1) @ unit(text - 0.1).T
    distilled = similarity_losses.distill(scale * image @ text.T, teacher)
    logits = scale * image @ text.T + bias
    each = jax.nn.softplus(jnp.where(jnp.eye(len(logits), dtype=bool), -logits, logits)).sum(1)
    return found | {
        "distill_contrastive": found["clip_loss"],
        "distill_distill(teacher=normalize(img+.1),normalize(txt-.1),scale*1.5)": distilled,
        "siglip_two_rank_losses": each.reshape(2, -1).mean(1),
    }


def _coca(cases: Cases) -> Case:
    labels = cases["coca"]["labels"]
    caption = fusion.cross_entropy(cases["coca"]["logits"], labels, labels != 0).mean()
    return {"caption_loss_w2_pad0": 2 * caption, "clip_loss": _clip(cases)["clip_loss"]}


def _sim(cases: Cases) -> Case:
    (images_texts,) = cases["sim"].values()
    scale = cases["clip"]["logit_scale"]
    both = similarity_losses.both_directions(scale * images_texts)
    found = {"clip4clip_crossen_avg": both, "xpool_cliploss(logit_scale=log)": both}
    for rows, candidates in ((8, 1), (4, 2)):
        logits = 5 * images_texts
        found[f"milnce_b{rows}_p{candidates}"] = similarity_losses.mil_nce(logits, candidates)
        found[f"univl_maxmargin_b{rows}_p{candidates}"] = similarity_losses.weighted_max_margin(
            logits, candidates
        )
    for name, margin, diagonal in (("0.2_fix", 0.2, False), ("1_nofix", 1.0, True)):
        found[f"mimm_maxmargin_{name}"] = similarity_losses.max_margin(
            images_texts, margin, both=False, diagonal=diagonal
        )
    return found


def _sms(cases: Cases) -> Case:
    case = cases["sms"]
    image, text, weight = case["image_features"], case["text_features"], case["weight"]
    quantised = case["relevancy_matrix"]
    relevancy = quantised[case["rows_video"]][:, case["cols_text"]].T

    def loss(image, text, relevancy=relevancy, margin=0.6, band=0.1):
        return similarity_losses.symmetric_multi_similarity(
            unit(text) @ unit(image).T, relevancy, weight=weight, margin=margin, band=band
        )

    similarity = unit(text) @ unit(image).T
    grads = jax.grad(loss, argnums=(0, 1))(image, text)
    found = {"relevancy_quantised": quantised, "grad_image_m0.6": grads[0], "grad_text_m0.6": grads[1]}
    for margin, band in ((0.4, 0.05), (0.6, 0.1), (0.8, 0.0)):
        found[f"loss_m{margin}_t{band}"] = loss(image, text, relevancy, margin, band)
        found[f"loss_m{margin}_t{band}_no_relevancy"] = loss(image, text, 0 * relevancy, margin, band)
    found["maxmargin_0.2"] = similarity_losses.max_margin(similarity, 0.2)
    found["adaptive_maxmargin_0.4"] = similarity_losses.max_margin(similarity, 0.4, weight)
    return found


def _umt(cases: Cases) -> Case:
    case = cases["umt"]
    ids, each = case["idx"], jnp.arange(len(case["idx"]))

    def embeddings(video, text, temperature):
        # Cosines are averaged over frames, so the video's vector is the mean of unit vectors, and shorter than 1.
        return unit(text), unit(video).mean(1), 1 / temperature

    def contrast(*inputs):
        return infonce(*embeddings(*inputs), ids=ids)[0]

    inputs = (case["vision_proj"], case["text_proj"], case["temp"])
    loss, grads = jax.value_and_grad(contrast, argnums=(0, 1, 2))(*inputs)
    text, video, scale = embeddings(*inputs)
    of_video = scale * video @ text.T
    found = {
        "sim_v2t": of_video,
        "vtc_loss_idx": loss,
        "vtc_loss_noidx": infonce(text, video, scale)[0],
        "vtc_targets_idx": similarity_losses.shared_targets(ids),
        "weights_v2t_sampled_for_text_neg": fusion.negative_weights(of_video, ids),
        "weights_t2v_sampled_for_vision_neg": fusion.negative_weights(of_video.T, ids),
    }
    found |= {
        f"vtc_grad_{name}": g for name, g in zip(("vision_proj", "text_proj", "temp"), grads, strict=True)
    }
    wrong_video, wrong_text = case["vision_neg_indices"], case["txt_neg_indices"]
    videos, texts = jnp.concatenate([each, wrong_video, each]), jnp.concatenate([each, each, wrong_text])
    words, mask = case["text_embeds"][texts], case["text_atts"][texts]
    # The stand-in for a fusion encoder that the file was made with.
    context = case["vision_embeds"][videos].mean(1) * (words.sum(1) / mask.sum(1, keepdims=True))
    first = words[:, 0] + context
    logits = matmul(first, case["vtm_head_weight"].T, "float32") + case["vtm_head_bias"]
    belongs = (jnp.arange(3 * len(each)) < len(each)).astype(jnp.int32)
    found["vtm_pre_head"] = first
    found["vtm_loss"] = fusion.cross_entropy(logits, belongs, jnp.ones(len(logits))).mean()
    return found | _uta(case["vision_proj"], case["uta_teacher"][0])


def _uta(student: jax.Array, teacher: jax.Array) -> Case:
    units = unit(student), unit(teacher)
    return {
        "uta_l2_l2": losses.cosine()(student, teacher).mean(),
        "uta_l2_mse": losses.mse()(*units).mean(),
        "uta_l2_smooth_l1": losses.smooth_l1()(*units).mean(),
        "uta_none_mse": losses.mse()(student, teacher).mean(),
        "uta_none_smooth_l1": losses.smooth_l1()(student, teacher).mean(),
    }


def _mlm(cases: Cases) -> Case:
    case = cases["mlm"]
    ids = case["ids"]
    allowed = fusion.maskable(ids, jnp.ones(ids.shape, bool), (0, 1))
    hidden = allowed & (case["masked_indices_drawn"] != 0)
    masked, other = (case[key] != 0 for key in ("replace_draw(bernoulli_.8)", "random_draw(bernoulli_.5)"))
    text = fusion.replace_words(ids, hidden, masked, other, case["random_words"], mask_id=3)
    return {"input_ids": text, "labels": jnp.where(hidden, ids, -100)}


def _albef(cases: Cases) -> Case:
    case, clip = cases["albef"], cases["clip"]
    image, text = clip["image_features"], clip["text_features"]
    # The batch's momentum features come first, then the queue, which holds one vector in each column.
    texts = jnp.concatenate([case["text_feat_m"], case["text_queue"].T])
    images = jnp.concatenate([case["image_feat_m"], case["image_queue"].T])
    of_image, of_text = image @ texts.T / case["temp"], text @ images.T / case["temp"]
    labels, found = _mlm(cases)["labels"], {}
    for alpha, short in ((0.0, "0"), (0.4, "0.4")):
        image_targets = similarity_losses.momentum_targets(
            case["image_feat_m"] @ texts.T / case["temp"], alpha
        )
        text_targets = similarity_losses.momentum_targets(
            case["text_feat_m"] @ images.T / case["temp"], alpha
        )
        found[f"ita_targets_i2t_alpha{alpha}"] = image_targets
        sides = (of_image, image_targets), (of_text, text_targets)
        found[f"ita_alpha{alpha}"] = sum(similarity_losses.soft_cross_entropy(*side) for side in sides) / 2
        hard = fusion.cross_entropy(case["mlm_scores"], jnp.maximum(labels, 0), labels != -100).mean()
        soft = -(jax.nn.log_softmax(case["mlm_scores"]) * case["mlm_soft_labels"]).sum(-1)
        soft = (soft * (labels != -100)).sum() / (labels != -100).sum()
        found[f"mlm_alpha{short}"] = (1 - alpha) * hard + alpha * soft
    own = jnp.arange(len(image))
    found["weights_i2t(itm_sampling)"] = fusion.negative_weights(of_image[:, : len(own)], own)
    found["weights_t2i(itm_sampling)"] = fusion.negative_weights(of_text[:, : len(own)], own)
    return found


def _drl(cases: Cases) -> Case:
    case = cases["drl"]
    weights: dict[str, list] = {"ti_logits": [], "wti_logits": []}
    features, masks = [], []
    for side in ("text", "video"):
        feature, mask = case[f"{side}_feat"], case[f"{side}_mask"] != 0
        learned = feature @ case[f"{side}_weight_fc.weight"][0] + case[f"{side}_weight_fc.bias"]
        weights["ti_logits"].append(mask / mask.sum(1, keepdims=True))
        weights["wti_logits"].append(jax.nn.softmax(jnp.where(mask, learned, -jnp.inf), axis=1))
        features.append(feature)
        masks.append(mask)
    return {
        name: similarity_losses.token_similarity(features[0], of_text, features[1], of_video, *masks)
        for name, (of_text, of_video) in weights.items()
    }


CASES: dict[str, Callable[[Cases], Case]] = {
    "albef": _albef,
    "clip": _clip,
    "coca": _coca,
    "drl": _drl,
    "mlm": _mlm,
    "sim": _sim,
    "sms": _sms,
    "umt": _umt,
}
