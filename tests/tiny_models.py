"""Pipelines of diffusers with a few thousand random weights, of all seven classes, to run every command offline:

    python tests/tiny_models.py DIR [BACKBONE...]        saves them to DIR/<backbone>, for --model DIR/<backbone>

Configurations, schedulers and text encoders are real and small. An untrained denoiser leaves latents of about the
spread of trained ones, so that whatever checks a latent takes them for one.
"""

import json
import sys
from pathlib import Path

import diffusers
import torch
import transformers
from tiny_vaes import tiny_vae
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from latpix.backbones.registry import BACKBONES

# The schedulers' settings as published; those of tests/golden/backbones/schedules.json.
SHIFTING = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
SCHEDULERS = {
    "FluxPipeline": {"shift": 3.0, **SHIFTING},
    "Flux2Pipeline": {"shift": 3.0, **SHIFTING},
    "Flux2KleinPipeline": {"shift": 3.0, **SHIFTING},
    "StableDiffusion3Pipeline": {"shift": 3.0},
    "QwenImagePipeline": {
        "shift": 1.0,
        **SHIFTING,
        "max_shift": 0.9,
        "max_image_seq_len": 8192,
        "shift_terminal": 0.02,
    },
    "ZImagePipeline": {"shift": 6.0},
}
VOCABULARY = 400
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = (
    "a photograph of a lighthouse in the fog, a small cat asleep on a red chair by the window, the old harbour, "
    "two dogs run along a beach, mountains behind a lake in the morning, a bowl of oranges on a wooden table"
)
CHAT = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for item in message['content'] %}{{ item['text'] }}{% endfor %}{% endif %}{% endfor %}"
)


def tiny_pipeline(name, seed=0):
    """A pipeline on the CPU in float32, with the same weights at every call.

    ``name`` is one of its class (FluxPipeline) or of a backbone (flux, zimage-turbo).
    """
    row = BACKBONES.get(name)
    class_name = name if row is None else row.generator.class_name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = BUILD[class_name]()
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipe = getattr(diffusers, class_name)(scheduler=scheduler(class_name, name), **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_pipeline(pipe, folder):
    """Save it as ``from_pretrained`` reads it, with whatever version of transformers."""
    pipe.save_pretrained(folder)
    for path in Path(folder).rglob("tokenizer_config.json"):
        config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
        path.write_text(json.dumps(config, indent=2))
    index = Path(folder) / "model_index.json"
    index.write_text(index.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    return Path(folder)


def scheduler(class_name, name):
    if class_name == "StableDiffusionXLPipeline":
        return diffusers.EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
            prediction_type="v_prediction",  # so that an untrained network removes the noise's excess
        )
    shift = {"shift": 3.0} if name == "zimage-turbo" else {}
    return diffusers.FlowMatchEulerDiscreteScheduler(**SCHEDULERS[class_name] | shift)


def flux():
    return {
        "transformer": diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
        "vae": tiny_vae("flux1"),
        "text_encoder": clip(),
        "tokenizer": tokenizer(77),
        "text_encoder_2": t5(),
        "tokenizer_2": tokenizer(512),
    }


def flux2():
    text = {**language(layers=31, heads=2), "model_type": "mistral", "head_dim": 8}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"head_dim": 8, "image_size": 32, "patch_size": 8, "model_type": "pixtral"}
    config = transformers.Mistral3Config(text_config=text, vision_config=vision, image_token_index=3)
    return {
        "transformer": flux2_denoiser(guidance_embeds=True),
        "vae": tiny_vae("flux2"),
        "text_encoder": transformers.Mistral3ForConditionalGeneration(config),
        "tokenizer": tokenizer(512, chat=True),
    }


def klein():
    config = transformers.Qwen3Config(**language(layers=28, heads=2), head_dim=8)
    return {
        "transformer": flux2_denoiser(guidance_embeds=False),
        "vae": tiny_vae("flux2"),
        "text_encoder": transformers.Qwen3ForCausalLM(config),
        "tokenizer": tokenizer(512, chat=True),
        "is_distilled": True,
    }


def flux2_denoiser(*, guidance_embeds):
    return diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=128,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,  # of three of the text encoder's layers
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )


def sd3():
    return {
        "transformer": diffusers.SD3Transformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            pos_embed_max_size=96,
        ),
        "vae": tiny_vae("sd3"),
        "text_encoder": clip(projected=True),
        "tokenizer": tokenizer(77),
        "text_encoder_2": clip(projected=True),
        "tokenizer_2": tokenizer(77),
        "text_encoder_3": t5(),
        "tokenizer_3": tokenizer(512),
    }


def sdxl():
    return {
        "unet": diffusers.UNet2DConditionModel(
            sample_size=32,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=80,
            norm_num_groups=4,
        ),
        "vae": tiny_vae("sdxl"),
        "text_encoder": clip(),
        "tokenizer": tokenizer(77),
        "text_encoder_2": clip(projected=True),
        "tokenizer_2": tokenizer(77),
        "add_watermarker": False,
    }


def qwenimage():
    sections = {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 10000.0}
    text = {**language(layers=2, heads=2), "rope_parameters": sections}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return {
        "transformer": diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=64,
            out_channels=16,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        ),
        "vae": tiny_vae("qwen"),
        "text_encoder": transformers.Qwen2_5_VLForConditionalGeneration(config),
        "tokenizer": tokenizer(1024),
    }


def zimage():
    config = transformers.Qwen3Config(**language(layers=2, heads=2), head_dim=8)
    return {
        "transformer": diffusers.ZImageTransformer2DModel(
            in_channels=16,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[1024, 128, 128],
        ),
        "vae": tiny_vae("flux1"),
        "text_encoder": transformers.Qwen3Model(config),
        "tokenizer": tokenizer(512, chat=True),
    }


BUILD = {
    "FluxPipeline": flux,
    "Flux2Pipeline": flux2,
    "Flux2KleinPipeline": klein,
    "StableDiffusion3Pipeline": sd3,
    "StableDiffusionXLPipeline": sdxl,
    "QwenImagePipeline": qwenimage,
    "ZImagePipeline": zimage,
}


def clip(*, projected=False):
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=32,
        **TOKENS,
    )
    return transformers.CLIPTextModelWithProjection(config) if projected else transformers.CLIPTextModel(config)


def t5():
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, **TOKENS
    )
    return transformers.T5EncoderModel(config)


def language(*, layers, heads):
    """What all language models are told; as many layers as a pipeline takes states of."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 2048,
        "initializer_range": 0.3,  # words are to matter
        **TOKENS,
    }


def tokenizer(length, *, chat=False):
    """Pieces of words, learned here and now; every text can be written with them."""
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<image>"}
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(names.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator([TEXT], trainer)
    pieces.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=pieces, model_max_length=length, **names)
    if chat:
        made.chat_template = CHAT
    return made


def main(arguments):
    if not arguments:
        sys.exit(__doc__)
    folder, names = Path(arguments[0]), arguments[1:] or [row.name for row in BACKBONES.values() if row.generator]
    for name in names:
        print(save_pipeline(tiny_pipeline(name), folder / name))


if __name__ == "__main__":
    main(sys.argv[1:])
