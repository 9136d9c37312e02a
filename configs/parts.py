"""The keys of networks: encoders, text encoders, language models, connectors; each with its default and its meaning."""


def vit(**changes) -> dict:
    """The ViT encoder's keys (part; home `vfm.models`)."""
    return (
        dict(
            name="vit",
            size="s",  # ti s b l h g 1b 6b: width, depth, heads, mlp_dim; any of the four below overrides it
            width=0,
            depth=0,
            heads=0,
            mlp_dim=0,
            frames=16,  # native clip that position tables are made for; other clips interpolate them
            image_size=224,  # native height and width in pixels
            tubelet=2,  # frames of one token
            patch=16,  # pixels of one token's side
            positions="sincos1d",  # sincos1d (VideoMAE) sincos3d learned learned_from_sincos learned_separable
            cls_token=False,
            registers=0,  # extra learned tokens, dropped at the output
            norm="layernorm",  # layernorm | rmsnorm
            norm_eps=1e-6,
            qkv_bias="qv",  # qv (VideoMAE: keys have none) | qkv | none
            qk_norm=False,
            layer_scale=0.0,  # initial value; 0 = no LayerScale
            drop_path=0.0,  # rate of the last layer, rising linearly from 0
            final_norm=True,
            attends="all",  # what a token sees: all | causal (those before it) | prefix (AIM; all outside training)
            block_bias=True,  # biases of output projections and MLPs
            embed_norm=False,  # a norm between patch embedding and positions
            pre_norm=False,  # a norm of all tokens in front of the first layer (CLIP)
            patch_bias=True,
            cls_position=False,  # the class token has a position code, the first row of a learned table
            image_positions="interpolate",  # of one-frame clips under learned positions: interpolate | mean | own
            qk_norm_over="head",  # head: each apart | all: heads together (InternVideo2)
            activation="gelu",  # gelu | gelu_tanh | quick_gelu | silu | relu
        )
        | changes
    )


def mamba(**changes) -> dict:
    """The VideoMamba encoder's keys (part; home `vfm.models`)."""
    return (
        dict(
            name="mamba",
            size="s",  # ti s m: width, depth; either of the two below overrides it
            width=0,
            depth=0,
            frames=8,
            image_size=224,
            tubelet=1,
            patch=16,
            positions="learned_separable",  # as VideoMamba: space (with a place for cls) + time
            cls_token=True,
            norm="rmsnorm",  # rmsnorm | layernorm
            norm_eps=1e-5,
            d_state=16,
            d_conv=4,
            expand=2,
            bidirectional=True,
            divide_out=False,  # halve the sum of the two directions (Vim); VideoMamba does not
            drop_path=0.0,
            final_norm=True,
            init="videomamba",  # videomamba (as its code executes) | mamba (dt initialised as Mamba's paper)
        )
        | changes
    )


def text(**changes) -> dict:
    """The keys of a two-tower model's text encoder (part; home `vfm.models`). As published:

    CLIP: `text(size="clip_b", activation="quick_gelu")`; SigLIP: `text(size="b", length=64, causal=False,
    sees_padding=True, pooling="last", activation="gelu_tanh", norm_eps=1e-6)`.
    """
    return (
        dict(
            name="text",
            size="b",  # ti s clip_b b l so400m: width, depth, heads, mlp_dim; any of the four below overrides it
            vocab_size=0,  # 0 = the tokenizer's
            length=77,  # the most tokens of a text
            width=0,
            depth=0,
            heads=0,
            mlp_dim=0,
            causal=True,  # a token sees itself and those before it
            sees_padding=False,  # padding is attended to and pooled like any token (SigLIP, with data.text.sticky)
            pooling="eot",  # eot (last token of the text: CLIP) | last (position: SigLIP) | cls | mean | map
            positions="learned",  # learned | sincos1d | none
            embed_scale=1.0,  # of word vectors, in front of positions
            activation="gelu",  # gelu | gelu_tanh (SigLIP) | quick_gelu (OpenAI's CLIP) | silu | relu
            norm_eps=1e-5,
            drop_path=0.0,  # rate of the last layer, rising linearly from 0
        )
        | changes
    )


def bert(**changes) -> dict:
    """The keys of a BERT, which fuses texts with videos from `fusion_layer` on (part; home `vfm.models`)."""
    return (
        dict(
            name="bert",
            size="b",  # ti mini s b l: width, depth, heads, mlp_dim; any of the four below overrides it
            vocab_size=0,  # 0 = the tokenizer's
            length=512,  # the most tokens of a text
            width=0,
            depth=0,
            heads=0,
            mlp_dim=0,
            fusion_layer=-1,  # first layer with cross-attention (UMT: 9 of b, 19 of l); -1 = none, 0 = all
            token_types=2,  # segments that tokens may belong to; 0 = none
            pooler=False,  # a dense layer and tanh behind the first token, where texts are pooled
            activation="gelu",
            norm_eps=1e-12,
            dropout=0.0,  # of embeddings and of what each layer adds (published: 0.1)
        )
        | changes
    )


def lm(**changes) -> dict:
    """The language model's keys (part; home `vfm.models`)."""
    return (
        dict(
            name="lm",
            # width, depth, heads, kv_heads, mlp_dim; any of the six below overrides it:
            size="ti",  # ti s b qwen2_0.5b tinyllama_1.1b qwen2_1.5b llama2_7b qwen2_7b llama3_8b
            width=0,
            depth=0,
            heads=0,
            kv_heads=0,  # heads of keys and values, fewer than of queries
            head_dim=0,
            mlp_dim=0,
            vocab_size=0,  # 0 = the tokenizer's
            rope_theta=10_000.0,
            norm_eps=1e-6,
            qkv_bias=False,  # Qwen2 has them
            tied=True,  # the output layer is the table of word vectors
            activation="silu",
            lora_rank=0,  # of adapters in every dense layer; 0 = none
            lora_alpha=32.0,  # adapters are multiplied by lora_alpha / lora_rank
        )
        | changes
    )


def connector(**changes) -> dict:
    """The keys of the connector from encoder to language model (part; home `vfm.models`).

    linear_connector, qformer, resampler and mamba_compressor take others, which vfm/models/connectors.py explains.
    """
    if changes.get("name", "mlp_connector") != "mlp_connector":
        return changes
    return (
        dict(
            name="mlp_connector",
            layers=2,
            pool=(1, 2, 2),  # by how much time, height and width shrink, after the MLP
            pooling="mean",  # mean | bilinear
            newline="none",  # none | row | frame: a learned token at the end of each
        )
        | changes
    )
