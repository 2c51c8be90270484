"""A text encoder of a few thousand parameters, and a checkpoint that reads its states: the real code path, offline."""

from dataclasses import replace

import torch
from small_decoder import NETWORK
from small_networks import small_network
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from latpix.captions.prompt_prefix import PREFIX
from latpix.checkpoints.load import save
from latpix.checkpoints.registry import find

WIDTH = 12  # e, of its states
READS_CAPTIONS = replace(
    NETWORK,
    caption_width=WIDTH,
    caption_length=8,
    image_channels=0,
    base_widths=(),
    base_blocks=(),
    attention_window=None,
)


def write_encoder(folder, *, seed=0, softcap=50.0, **config):
    """A folder as transformers saves a Gemma 2 with its tokenizer; weights large enough for words to matter."""
    from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(names.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([PREFIX], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)

    shape = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "vocab_size": 400}
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    torch.manual_seed(seed)
    model = Gemma2ForCausalLM(Gemma2Config(**shape, **tokens, attn_logit_softcapping=softcap, **config))
    for parameter in model.parameters():
        parameter.data.normal_(std=0.5)
    model.save_pretrained(folder)
    return folder


def write_reading_checkpoint(path, *, row="flux2-2k", guidance_scale=1.0, **sampling):
    """A checkpoint of space flux2 that reads captions; ``row`` is what it says it is."""
    row = find(row)
    sampling = replace(row.sampling, guidance_scale=guidance_scale, **sampling)
    row = replace(row, name="reads captions", network=READS_CAPTIONS, sampling=sampling)
    network = small_network(READS_CAPTIONS)
    for block in network.patch_blocks:
        block.caption.qkv.weight.mul_(3000)  # a few words among a thousand patches are to be seen in the picture
    save(network, row, path)
    return path
