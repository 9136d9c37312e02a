"""The video-text model of InternVideo2's second stage: encoder, pool, BERT with fusion layers, and its four losses.

Sources: Wang et al. 2024 (arXiv 2403.15377); OpenGVLab/InternVideo (InternVideo2/multi_modality).

Letters: B batch, T H W C frames, height, width and channels of a video, N tokens after the class token, L tokens of a
text, D width, E shared space.
"""

from collections.abc import Mapping as MappingType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from vfm import contrastive, models
from vfm.interop.arguments import Arguments, only
from vfm.interop.golden import Golden, Names, Tensors, keyed
from vfm.interop.internvideo2_align import align, distance, encode, parameter_shapes, visible
from vfm.interop.internvideo2_config import Spec, spec_of
from vfm.interop.internvideo2_rules import dense, norm, vision_rules
from vfm.interop.mapping import COPY, Mapping, Rule, Shape
from vfm.models.layers import Dense

IDLE = set(
    "hidden_dropout_prob attention_probs_dropout_prob initializer_range model_type gradient_checkpointing use_cache "
    "position_embedding_type architectures encoder_width fusion_layer add_cross_attention".split()
)
PREFIX, TEXT = "vision_encoder.", "text_encoder"
TEMPERATURES = 0.001, 0.5  # the original clamps in front of each step
DENSE = {  # of a layer: name -> our path, its part of a fused kernel
    r"attention\.self\.query": ("attn/qkv", "#0/3"),
    r"attention\.self\.key": ("attn/qkv", "#1/3"),
    r"attention\.self\.value": ("attn/qkv", "#2/3"),
    r"attention\.output\.dense": ("attn/proj", ""),
    r"crossattention\.self\.query": ("cross/q", ""),
    r"crossattention\.self\.key": ("cross/kv", "#0/2"),
    r"crossattention\.self\.value": ("cross/kv", "#1/2"),
    r"crossattention\.output\.dense": ("cross/proj", ""),
    r"intermediate\.dense": ("mlp/fc1", ""),
    r"output\.dense": ("mlp/fc2", ""),
}
NORMS = {r"attention\.output": "norm1", r"crossattention\.output": "norm_cross", "output": "norm2"}


def bert_part(config: MappingType[str, Any]) -> dict[str, Any]:
    """The text encoder as a part of `vfm.models`."""
    get = Arguments(config["bert"], IDLE)
    only("cross_module", get("cross_module", "ca"), "ca", "fusion is cross-attention")
    only("hidden_act", get("hidden_act", "gelu"), "gelu", "published models have the exact GELU")
    only("pad_token_id", get("pad_token_id", 0), 0, "padding is told by the mask")
    part = dict(
        name="bert",
        vocab_size=get("vocab_size", 30522),
        length=get("max_position_embeddings", 512),
        width=get("hidden_size", 1024),
        depth=get("num_hidden_layers", 24),
        heads=get("num_attention_heads", 16),
        mlp_dim=get("intermediate_size", 4096),
        fusion_layer=config["fusion_layer"],
        token_types=get("type_vocab_size", 2),
        norm_eps=get("layer_norm_eps", 1e-12),
    )
    get.finish()
    return part


def vision_spec(config: MappingType[str, Any], names: Any) -> Spec:
    return spec_of(config["vision_encoder"], [n.removeprefix(PREFIX) for n in names if n.startswith(PREFIX)])


def bert_rules(depth: int, fusion_layer: int) -> list[Rule]:
    """Names of the original's BERT; its layers from `fusion_layer` on are our second stack."""
    embeddings, head = rf"{TEXT}\.bert\.embeddings\.", rf"{TEXT}\.cls\.predictions\."
    rules: list[Rule] = [
        (rf"{embeddings}position_ids", COPY, "same"),
        (rf"{embeddings}word_embeddings\.weight", "text/words/embedding", "same"),
        (rf"{embeddings}position_embeddings\.weight", "text/positions/pos", "same"),
        (rf"{embeddings}token_type_embeddings\.weight", "text/positions/types", "same"),
        *norm(rf"{embeddings}LayerNorm", "text/positions/norm"),
        (rf"{head}bias", "text/mlm/bias", "same"),
        (rf"{head}decoder\.(?:weight|bias)", COPY, "same"),  # the word vectors and `bias`
        *dense(rf"{head}transform\.dense", "text/mlm/dense"),
        *norm(rf"{head}transform\.LayerNorm", "text/mlm/norm"),
    ]
    for layer in range(depth):
        stack, place = ("blocks", layer) if layer < fusion_layer else ("fusion_blocks", layer - fusion_layer)
        theirs, ours = rf"{TEXT}\.bert\.encoder\.layer\.{layer}\.", f"text/{stack}/"
        for name, (path, part) in DENSE.items():
            rules += [
                (rf"{theirs}{name}\.weight", f"{ours}{path}/kernel[{place}]{part}", "linear"),
                (rf"{theirs}{name}\.bias", f"{ours}{path}/bias[{place}]{part}", "same"),
            ]
        for name, path in NORMS.items():
            rules += [
                (rf"{theirs}{name}\.LayerNorm\.weight", f"{ours}{path}/scale[{place}]", "same"),
                (rf"{theirs}{name}\.LayerNorm\.bias", f"{ours}{path}/bias[{place}]", "same"),
            ]
    return rules


def mapping(config: MappingType[str, Any], shapes: MappingType[str, Shape]) -> Mapping:
    """The mapping to {"encoder", "pool", "clip", "final", "text", "video_proj", "text_proj", "vtm_head", "temp"}."""
    rules = vision_rules(r"vision_encoder\.") + bert_rules(
        config["bert"]["num_hidden_layers"], config["fusion_layer"]
    )
    rules += dense("vision_proj", "video_proj") + dense("text_proj", "text_proj")
    rules += dense("itm_head", "vtm_head") + [("temp", "temp", "same")]
    return Mapping(rules, shapes)


def shapes_of(config: MappingType[str, Any], names: Any) -> dict[str, Any]:
    """The tree of shapes of the parameters, without any memory."""
    spec, text = vision_spec(config, names), models.build(bert_part(config))
    tree = dict(parameter_shapes(spec))

    def init(rng):
        words, tokens = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, spec.encoder["width"]))
        projection, pooled = Dense(config["embed_dim"]), jnp.zeros((1, spec.pool["width"]))
        return dict(
            text=text.init(rng, words, None, tokens, method="everything")["params"],
            video_proj=projection.init(rng, pooled)["params"],
            text_proj=projection.init(rng, jnp.zeros((1, text.width)))["params"],
            vtm_head=Dense(2).init(rng, jnp.zeros((1, text.width)))["params"],
            temp=jnp.zeros(()),
        )

    return tree | jax.eval_shape(init, jax.random.key(0))


def parts(names: Names) -> dict[str, dict[str, Any]]:
    """The parts of a model that the tensors fill, with their keys."""
    spec = vision_spec(names.config, names.tensors)
    return {"encoder": spec.encoder, "pool": spec.pool, "text": bert_part(names.config)}


def template(names: Names) -> tuple[Mapping, dict[str, Any]]:
    """The mapping of a names file and the shapes of our parameters."""
    return mapping(names.config, names.tensors), shapes_of(names.config, names.tensors)


def evaluate(golden: Golden) -> dict[str, Any]:
    """Outputs, losses and gradients of our model on a golden file's weights and inputs."""
    tensors = mapping(golden.config, {name: w.shape for name, w in golden.weights.items()})
    params = tensors.to_ours(golden.weights, shapes_of(golden.config, golden.weights))
    spec = vision_spec(golden.config, golden.weights)

    def run(params):
        return _losses(spec, golden.config, params, golden.inputs)

    gradients, outputs = jax.jit(jax.grad(run, has_aux=True))(params)
    return keyed(output=outputs, grad=tensors.to_theirs(gradients))


def _losses(spec: Spec, config, params, inputs: Tensors) -> tuple[Array, dict[str, Array]]:
    """Contrast, matching, masked words and alignment, with the masks and negatives that the file holds."""
    video = rearrange(jnp.asarray(inputs["image"]), "b t c h w -> b t h w c")
    text = Text(config, params, inputs["input_ids"], inputs["attention_mask"] != 0)
    whole = Watched(spec, params, video)
    image = Watched(spec, params, video[:, :1])
    seen = Watched(spec, params, video, visible(inputs["mask"]))

    # Contrast: the loss sees masked videos, the file's similarities whole ones.
    temperature = jnp.clip(params["temp"], *TEMPERATURES)
    to_shared = Dense(config["embed_dim"])
    text_proj = to_shared.apply({"params": params["text_proj"]}, text.tokens[:, 0])
    vision_proj, masked_proj = (
        to_shared.apply({"params": params["video_proj"]}, x.pooled) for x in (whole, seen)
    )
    sims = contrastive.unit(vision_proj) @ contrastive.unit(text_proj).T / temperature
    vtc, _ = contrastive.infonce(
        contrastive.unit(text_proj),
        contrastive.unit(masked_proj),
        1 / temperature,
        ids=jnp.asarray(inputs["idx"], jnp.int32),
    )

    # Matching: pairs, then wrong videos, then wrong texts.
    fused = text.fuse(text.tokens, seen.tokens)
    wrong_video = text.fuse(text.tokens, seen.tokens[inputs["vision_neg_idx"]])
    wrong = inputs["text_neg_idx"]
    wrong_text = text.fuse(text.tokens[wrong], seen.tokens, text.mask[wrong])
    head = Dense(2)
    logits = head.apply(
        {"params": params["vtm_head"]}, jnp.concatenate([fused, wrong_video, wrong_text])[:, 0]
    )
    labels = jnp.repeat(jnp.asarray([1, 0, 0]), len(video))
    vtm = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()

    # Masked words.
    words = text.predict(text.fuse(text.read(inputs["mlm_input_ids"]), seen.tokens))
    wanted = inputs["mlm_labels"]
    losses = jnp.take_along_axis(jax.nn.log_softmax(words), np.maximum(wanted, 0)[..., None], axis=-1)[..., 0]
    mlm = -(losses * (wanted >= 0)).sum() / (wanted >= 0).sum()

    uta = distance(
        seen.aligned["clip"],
        np.take_along_axis(inputs["teacher_clip_middle"], seen.ids[None, :, :, None], axis=2),
    )
    uta += distance(seen.aligned["final"], inputs["teacher_clip_final"])
    loss = vtc + vtm + mlm + uta
    whole_fused = text.fuse(text.tokens, whole.tokens)
    return loss, dict(
        tokens_pos=whole.embedded,
        block0_out=whole.blocks[0],
        vision_embeds=whole.tokens,
        pooled_vision_embeds=whole.pooled,
        text_embeddings=text.embedded,
        text_layer0=text.first_layer,
        text_embeds=text.tokens,
        vision_proj=vision_proj,
        text_proj=text_proj,
        sim_v2t=sims,
        sim_t2v=sims.T,
        fusion_out=whole_fused,
        itm_logits=head.apply({"params": params["vtm_head"]}, whole_fused[:, 0]),
        image_vision_embeds=image.tokens,
        image_pooled=image.pooled,
        image_student_middle=image.aligned["clip"],
        image_student_final=image.aligned["final"],
        masked_vision_embeds=seen.tokens,
        masked_pooled=seen.pooled,
        student_middle=seen.aligned["clip"],
        student_final=seen.aligned["final"],
        mlm_logits=words,
        loss_uta=uta,
        loss_vtc=vtc,
        loss_vtm=vtm,
        loss_mlm=mlm,
        loss=loss,
    )


class Watched:
    """What the vision model makes of a video, or of its visible places `ids` (the class token's 0 among them)."""

    def __init__(self, spec: Spec, params, video: Float[Array, "B T H W C"], ids: np.ndarray | None = None):
        features, seen, self.pooled, _ = encode(spec, params, video, None if ids is None else ids[:, 1:] - 1)
        self.embedded, self.blocks = seen["embed"][0], seen["blocks"]["output"][0]
        self.tokens = jnp.concatenate([features.cls[:, None], features.tokens], axis=1)
        if ids is None:
            ids = np.broadcast_to(np.arange(self.tokens.shape[1]), self.tokens.shape[:2])
        self.ids = ids
        self.aligned = align(spec, params, self.blocks, self.pooled, ids, features.grid)


class Text:
    """What BERT makes of texts [B,L], and its upper layers with a video's tokens."""

    def __init__(self, config, params, ids: np.ndarray, mask: np.ndarray):
        self.bert, self.variables = models.build(bert_part(config)), {"params": params["text"]}
        self.mask = jnp.asarray(mask)
        features, seen = self.bert.apply(self.variables, ids, self.mask, mutable=["intermediates"])
        self.tokens = features.tokens
        self.embedded = seen["intermediates"]["embed"][0]
        self.first_layer = seen["intermediates"]["blocks"]["output"][0][0]

    def read(self, ids: np.ndarray) -> Float[Array, "B L D"]:
        """The lower layers' tokens of other words."""
        return self.bert.apply(self.variables, ids, self.mask).tokens

    def fuse(self, tokens, video_tokens, mask=None) -> Float[Array, "B L D"]:
        """The upper layers."""
        mask = self.mask if mask is None else mask
        return self.bert.apply(self.variables, tokens, mask, video_tokens, method="fuse")

    def predict(self, tokens) -> Float[Array, "B L V"]:
        """Logits of words."""
        return self.bert.apply(self.variables, tokens, method="predict")
