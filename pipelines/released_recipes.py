"""Recipes at released sizes: the authors' RecA hyper-parameters, counted in optimizer updates (docs/models.md).

None of them was run here: no GPU and no model hub were at hand. docs/models.md says what was checked, by family.
"""

from reca.config import (
    DataConfig,
    EditConfig,
    EvaluationConfig,
    GateConfig,
    ModelConfig,
    RecaRecipe,
    SamplingConfig,
    TrainingConfig,
)

NO_GATES = GateConfig(single_object=0.0, colors=0.0, understanding=0.0, class_recall=0.0)
"""Gates read emoji scenes, which mean nothing to a released model."""


def _pictures(min_side: int) -> DataConfig:
    """Pictures and instructions of one's own, all of them; the command line names the places."""
    return DataConfig(
        source="", images=0, instructions=0, instruction_source="", min_side=min_side, rows_per_shard=1000
    )


def _showo(name: str, checkpoint: str, batch_size: int, updates: int) -> RecaRecipe:
    """The authors' Show-o hyper-parameters, as in their released configurations: AdamW 5e-7, cosine, no clipping."""
    return RecaRecipe(
        name=name,
        data=_pictures(min_side=256),
        model=ModelConfig(family="showo", checkpoint=checkpoint),
        training=TrainingConfig(
            updates=updates,
            batch_size=batch_size,
            learning_rate=5e-7,
            warmup_updates=1000,
            schedule="cosine",
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.01,
            grad_clip=0.0,
            checkpoint_every=500,
            seed=10086,
        ),
        evaluation=EvaluationConfig(sampling=SamplingConfig(guidance=5.0, steps=50)),
        gates=NO_GATES,
    )


def showo_256() -> RecaRecipe:
    """Show-o with CLIP features at 256 px: `showlab/show-o-w-clip-vit` downloaded to a folder.

    Command: `python pipelines/reca.py run --recipe showo_256 --set model.checkpoint=DIR
    --set data.source=s3://bucket/images --set data.instruction_source=s3://bucket/llava --context workers=1
    --context gpus_per_worker=1`. Hardware: one 80 GB GPU (the release trains on one). Cost in the paper: 4 to 9 hours
    on one A100. Expected (paper, GenEval): 56.6 to 61.9; MiniGenEval's scorer reads emoji scenes only and says nothing
    about this model. Not run here: no GPU, no model hub.
    """
    return _showo("showo_256", "showo_256", batch_size=20, updates=10_000)


def showo_512() -> RecaRecipe:
    """Show-o with CLIP features at 512 px: `showlab/show-o-w-clip-vit-512x512` downloaded to a folder.

    Command: as `showo_256`, with `--recipe showo_512`. Hardware: one 80 GB GPU. Cost in the paper: 4 to 9 hours on one
    A100. Expected (paper): GenEval 66.2 to 72.3, DPG 82.21 to 84.94. Not run here: no GPU, no model hub.
    """
    return _showo("showo_512", "showo_512", batch_size=10, updates=5_000)


def _harmon(name: str, checkpoint: str, batch_size: int) -> RecaRecipe:
    """The authors' Harmon configuration in optimizer updates: each of theirs is 2 reconstruction and 2 image-to-text
    micro-batches, so their iteration 5000 is update 1250 and a micro-batch of 48 is half of a task's batch here.

    Their loss is the mean over the four micro-batches, hence weights of one half: the ratio is 1 to 1, and gradient
    clipping sees their norm. Their rate falls along a cosine over 12,500 updates and is still at 98 % where they stop,
    so it is constant here after their warm-up of 1 %.
    """
    return RecaRecipe(
        name=name,
        data=_pictures(min_side=256),
        model=ModelConfig(family="harmon", checkpoint=checkpoint),
        training=TrainingConfig(
            updates=1250,
            batch_size=batch_size,
            learning_rate=1e-5,
            warmup_updates=125,
            schedule="constant",
            betas=(0.9, 0.95),
            eps=1e-8,
            weight_decay=0.02,
            grad_clip=1.0,
            lambda_recon=0.5,
            lambda_i2t=0.5,
            checkpoint_every=250,
            seed=42,
        ),
        # Guidance 2 is the paper's scale 3.
        evaluation=EvaluationConfig(sampling=SamplingConfig(guidance=2.0, steps=64, temperature=1.0)),
        gates=NO_GATES,
    )


def harmon_0_5b() -> RecaRecipe:
    """Harmon-0.5B at 512 px: `wusize/Harmon-0_5B` downloaded to a folder, with `"grad_checkpointing": true` in the
    section `mar` of its config.json.

    Command: `python pipelines/reca.py run --recipe harmon_0_5b --set model.checkpoint=DIR
    --set data.source=s3://bucket/midjourney --set data.instruction_source=s3://bucket/llava --context workers=4
    --context gpus_per_worker=1`. Hardware: four 80 GB GPUs (192 images per task and update; the authors reach theirs by
    accumulating 96 on one GPU, here workers share them). Cost: not published for this size. Expected (authors' model
    table): GenEval 67.6 to 78.7, DPG 80.12 to 84.67; MiniGenEval's scorer reads emoji scenes only and says nothing
    about this model. Not run here: no GPU, no model hub.
    """
    return _harmon("harmon_0_5b", "harmon_0_5b", batch_size=192)


def harmon_1_5b() -> RecaRecipe:
    """Harmon-1.5B at 512 px: `wusize/Harmon-1_5B` downloaded to a folder, prepared as for `harmon_0_5b`.

    Command: as `harmon_0_5b`, with `--recipe harmon_1_5b`. Hardware: four 80 GB GPUs (96 images per task and update,
    24 on each GPU; the authors use one with micro-batches of 48). Cost in the paper: about 27 A100 hours. Expected
    (paper): GenEval 72.9 to 85.7, DPG 80.93 to 87.21, WISE .41 to .50. Not run here: no GPU, no model hub.
    """
    return _harmon("harmon_1_5b", "harmon_1_5b", batch_size=96)


def _janus_pro(name: str) -> RecaRecipe:
    """Hyper-parameters of our own: the RecA authors list Janus-Pro as to do and have published none.

    Derived from what they use for the shared transformer of nearest size, Harmon-1.5B (AdamW 1e-5, betas .9 and .95,
    1 % warm-up, cosine to 0, clipping at 1, 1,250 updates of 96 + 96 images, image-to-text at weight 1), with the
    weight decay (0) of Janus-Pro's own last stage (arXiv 2501.17811, table 2), which trains both sizes at one rate
    too, 4e-5. Sampling is the published one: cfg weight 5, temperature 1, 576 codes.
    """
    return RecaRecipe(
        name=name,
        data=_pictures(min_side=384),
        model=ModelConfig(family="janus", checkpoint=name),
        training=TrainingConfig(
            updates=1250,
            batch_size=96,
            learning_rate=1e-5,
            warmup_updates=12,
            schedule="cosine",
            betas=(0.9, 0.95),
            eps=1e-8,
            weight_decay=0.0,
            grad_clip=1.0,
            lambda_recon=1.0,
            lambda_i2t=1.0,
            checkpoint_every=125,
        ),
        evaluation=EvaluationConfig(sampling=SamplingConfig(guidance=4.0, steps=576, temperature=1.0)),
        gates=NO_GATES,
    )


def janus_pro_1b() -> RecaRecipe:
    """Janus-Pro-1B at 384 px: `deepseek-community/Janus-Pro-1B` downloaded to a folder. Hyper-parameters are ours.

    Command: `python pipelines/reca.py run --recipe janus_pro_1b --set model.checkpoint=DIR
    --set data.source=s3://bucket/images --set data.instruction_source=s3://bucket/llava --context workers=8
    --context gpus_per_worker=1`. Hardware: eight 80 GB GPUs; each holds the whole model (27 GB of float32 weights,
    gradients and Adam moments), and the activations of 12 + 12 sequences of about 1,200 and 900 positions are estimated
    at 42 GB. Cost, estimated and not measured: 1.6e15 operations an update, so 4 to 5 A100-hours at 40 % utilisation.
    Cached features: 1.2 MB a picture in float16, 12 GB for 10,000. Expected scores: unknown, nobody has published RecA
    on Janus-Pro; base (Janus-Pro's paper): GenEval .73. MiniGenEval's scorer reads emoji scenes only and says nothing
    about this model. Not run here: no GPU, no model hub.
    """
    return _janus_pro("janus_pro_1b")


def janus_pro_7b() -> RecaRecipe:
    """Janus-Pro-7B at 384 px: `deepseek-community/Janus-Pro-7B` downloaded to a folder. Hyper-parameters are ours.

    Command: as `janus_pro_1b`, with `--recipe janus_pro_7b --context workers=8 --context sharding=full
    --context micro_batch=3`. Hardware: eight 80 GB GPUs. By calculation (docs/training.md) each holds 14 GB of weights,
    gradients and Adam moments (114 GB without sharding), 24 GB of gathered layers and bfloat16 copies, and the
    activations of 3 + 3 sequences (26 GB, estimated); 30 GB of weights while loading. Cost, estimated and not measured:
    7.6e15 operations an update, so about 7 H200-hours at 40 % utilisation. Cached features: 1.2 MB a picture in
    float16, 12 GB for 10,000. Expected scores: unknown, nobody has published RecA on Janus-Pro; base (RecA paper, table
    1): GenEval .80, DPG 84.33. Not run here: no GPU, no model hub; sharded training was run at tiny size on CPUs.
    """
    return _janus_pro("janus_pro_7b")


def _openuni(name: str, gpus: int, updates: int) -> RecaRecipe:
    """The authors' OpenUni hyper-parameters (released RecA configurations): AdamW 1e-5, decay 0.05 on matrices, clip 1,
    1 % warm-up, cosine to 0, 42 images per GPU and micro-step. Their accumulated micro-steps are GPUs here.
    """
    return RecaRecipe(
        name=name,
        data=_pictures(min_side=512),
        model=ModelConfig(family="openuni", checkpoint=name),
        training=TrainingConfig(
            updates=updates,
            batch_size=42 * gpus,
            learning_rate=1e-5,
            warmup_updates=round(updates / 100),
            schedule="cosine",
            betas=(0.9, 0.95),
            eps=1e-8,
            weight_decay=0.05,
            grad_clip=1.0,
            lambda_i2t=0.0,
            checkpoint_every=100,
        ),
        evaluation=EvaluationConfig(sampling=SamplingConfig(guidance=3.5, steps=20)),
        gates=NO_GATES,
    )


def openuni_b_512() -> RecaRecipe:
    """OpenUni-B at 512 px: InternVL3-1B and Sana-0.6B. A folder with OpenUni's own file
    (`openuni_b_internvl3_1b_sana_0_6b_512_hf_text2image23m.pth`), a `config.json` of `{"family": "openuni"}` and the
    base models beside it (docs/models.md).

    Command: `python pipelines/reca.py run --recipe openuni_b_512 --set model.checkpoint=DIR
    --set data.source=s3://bucket/images --context workers=4 --context gpus_per_worker=1`. Hardware: 4 80 GB GPUs, or
    one with `--context workers=1 --context micro_batch=42`, as the release (168 images per update either way). 10,000
    micro-steps of the released configuration are 2,500 updates (the authors say they stopped after 5,000, which are
    1,250). Cost: not stated in the paper; weights, gradients and optimizer state take about 15 GB per GPU in float32 by
    calculation.
    Expected (authors): GenEval 56.0 to 70.4, DPG 76.3 to 80.5. Guidance 3.5 is their scale 4.5. Not run here: no GPU,
    no model hub.
    """
    return _openuni("openuni_b_512", gpus=4, updates=2_500)


def openuni_l_512() -> RecaRecipe:
    """OpenUni-L at 512 px: InternVL3-2B and Sana-1.6B. A folder as for `openuni_b_512`, with
    `openuni_l_internvl3_2b_sana_1_6b_512_hf_text2image23m.pth` and a `config.json` that also holds
    `"connector": {"intermediate_size": 8960, "num_attention_heads": 24}`.

    Command: as `openuni_b_512`, with `--recipe openuni_l_512 --context workers=16`. Hardware: 16 80 GB GPUs, or
    fewer with `--context micro_batch=42`; the release accumulates 16 micro-steps (672 images per update). 5,000
    micro-steps are 312 updates. Cost: not stated in the paper; weights, gradients and optimizer state take about 39 GB
    per GPU in float32 by calculation. Expected (paper): GenEval 61.9 to 74.1, DPG 79.02 to 82.75, WISE .43 to .54. Not
    run here: no GPU, no model hub.
    """
    return _openuni("openuni_l_512", gpus=16, updates=312)


def bagel_7b() -> RecaRecipe:
    """BAGEL-7B-MoT with the authors' RecA hyper-parameters: a folder with the released `ema.safetensors`,
    `ae.safetensors`, `llm_config.json`, `vit_config.json` and tokenizer (docs/models.md).

    1,000 updates of 64 pictures (8 GPUs x 8 pictures of 1024 px, about 4,400 tokens each, in one packed sequence per
    GPU). All 1,000 are warm-up from 0 to 4e-5, as published: the mean rate is 2e-5. AdamW with eps 1e-15 and no weight
    decay, clipping at 1, no image-to-text term (understanding is frozen), no moving average: the authors keep one of
    .9999 and advise against using it (GenEval 83.05 raw, 78.87 averaged). Guidance 3 is their text scale 4; 49 steps
    are their `num_timesteps` 50.

    Command: `python pipelines/reca.py run --recipe bagel_7b --set model.checkpoint=DIR
    --set data.source=s3://bucket/images --context workers=8 --context gpus_per_worker=1 --context sharding=full`.
    Hardware: eight 80 GB GPUs (the authors shard over 6 to 8). By calculation (docs/training.md) each holds 17 GB of
    weights, gradients and Adam moments in float32 (137 GB without sharding), 23 GB of gathered layers and bfloat16
    copies, and the activations, which are not counted here (lower them with `--context micro_batch=4`); 59 GB of
    weights while loading. Cost in the paper: 27 A100-hours. Encoded pictures take 1.6 MB each. Expected (paper):
    GenEval 78.8 to 82.4, DPG 84.03 to 85.29, ImgEdit 3.38 to 3.75, GEdit-EN 6.94 to 7.27. Not run here: no GPU, no
    model hub; sharded training was run at tiny size on CPUs.
    """
    return RecaRecipe(
        name="bagel_7b",
        data=_pictures(min_side=512),
        model=ModelConfig(family="bagel", checkpoint="bagel_7b"),
        training=TrainingConfig(
            updates=1000,
            batch_size=64,
            learning_rate=4e-5,
            warmup_updates=1000,
            schedule="constant",
            betas=(0.9, 0.95),
            eps=1e-15,
            weight_decay=0.0,
            grad_clip=1.0,
            lambda_i2t=0.0,
            ema_decay=0.0,
            checkpoint_every=250,
            seed=42,
        ),
        evaluation=EvaluationConfig(sampling=SamplingConfig(guidance=3.0, steps=49)),
        gates=NO_GATES,
        edits=EditConfig(sampling=SamplingConfig(guidance=3.0, steps=49)),
    )


RELEASED = (
    showo_256,
    showo_512,
    harmon_0_5b,
    harmon_1_5b,
    janus_pro_1b,
    janus_pro_7b,
    openuni_b_512,
    openuni_l_512,
    bagel_7b,
)
"""In the order of docs/models.md."""
