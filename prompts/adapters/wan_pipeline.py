"""Wan text to video: diffusers' WanPipeline (official) against FastVideo's own WanPipeline, stage by stage.

Both are the real pipeline objects with the real loaders. FastVideo's denoising stage computes in bfloat16 whatever it
is asked for, so float32, in which logic is compared, needs the environment patch ``denoising-dtype``; on a CPU the
port needs ``cpu-attention``, ``cpu-device`` and ``cpu-autocast`` as well. Weights: ``<official_weights>`` with
``model_index.json``, ``tokenizer``, ``text_encoder``, ``transformer``, ``vae`` and ``scheduler``.

FastVideo's WanPipeline builds its scheduler with the shift and lets it shift the grid once more, so its first sigma
lies nearer to 1 than the Wan repository's (which begins at 0.999) and diffusers'. What is compared here is everything
else: the official scheduler is given FastVideo's grid. ``GRID = "wan"`` shows the difference as stage ``timesteps``.

Diffusers cleans a prompt (ftfy, HTML entities, white space) before the tokenizer, FastVideo 0.2.1 does not.
``PROMPTS = "any"`` adds a prompt that needs it and shows the difference as stage ``text``.
"""

import os

import numpy
import torch

CASES = {
    "small": {
        "prompt": "a red fox runs over the snow",
        "negative": "blurred low quality",
        "height": 32,
        "width": 48,
        "frames": 5,
        "steps": 4,
        "guidance": 4.0,
    },
}
# Tried as far as the text stage: a prompt that is truncated, beside an empty one that is nearly all padding.
birds = "two birds over the snow " * 120
CASES["long prompt"] = {**CASES["small"], "prompt": birds, "negative": "", "stages": ["text"]}
GRID = "fastvideo"
PROMPTS = "clean"
if PROMPTS == "any":
    unclean = "a red &amp;quot;fox&amp;quot; runs &lt;over&gt;\n\nthe  snow\u2026 "
    CASES["unclean prompt"] = {**CASES["small"], "prompt": unclean, "negative": "low &amp; static", "stages": ["text"]}
PRECISION = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class TextIsEnough(Exception):
    """The case asks for no stage after the text."""


def load_official(ctx):
    """The official pipeline, all of it in one dtype.

    Its users are advised to keep the VAE in float32; FastVideo's configuration decodes in bfloat16, so with that advice
    stage ``decode`` is less precise than the official one in bfloat16, and said to be.
    """
    from diffusers import WanPipeline

    pipeline = WanPipeline.from_pretrained(ctx.official_weights, torch_dtype=ctx.dtype).to(ctx.device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_port(ctx):
    """FastVideo's pipeline through its own loaders and its own configuration; only the precision is asked for."""
    os.environ["FASTVIDEO_ATTENTION_BACKEND"] = "TORCH_SDPA"
    from fastvideo.pipelines.basic.wan.wan_pipeline import WanPipeline

    # In float32 everything is; otherwise the pipeline's configuration says what is decoded in which precision.
    whole = {"vae_decode_precision": "fp32"} if ctx.dtype == torch.float32 else {}
    return WanPipeline.from_pretrained(
        str(ctx.official_weights),
        dit_precision=PRECISION[ctx.dtype],
        **whole,
        dit_cpu_offload=False,
        dit_layerwise_offload=False,
        vae_cpu_offload=False,
        text_encoder_cpu_offload=False,
        use_fsdp_inference=False,
        pin_cpu_memory=False,
    )


def make_inputs(ctx):
    """The state that the noise is drawn from (both pipelines draw it themselves, on the CPU) and the guidance."""
    return {"seed": torch.tensor(ctx.seed), "guidance": torch.tensor(float(ctx.case["guidance"]))}


def call_official(pipeline, inputs, ctx):
    """Run it with its own callbacks; what has none is recorded around its methods."""
    case, scheduler = ctx.case, pipeline.scheduler
    set_timesteps, step, encode, prepare = (
        scheduler.set_timesteps,
        scheduler.step,
        pipeline.encode_prompt,
        pipeline.prepare_latents,
    )
    taken = iter(range(case["steps"] + 1))

    def on_the_grid(count, device=None):
        first = torch.tensor(1 - 1 / scheduler.config.num_train_timesteps, dtype=torch.float32)
        if GRID == "fastvideo":
            shift = scheduler.config.flow_shift
            first = shift * first / (1 + (shift - 1) * first)
        first = float(first)
        set_timesteps(sigmas=numpy.linspace(first, 0.0, count + 1)[:-1], device=device)
        scheduler.timesteps = ctx.record("timesteps", scheduler.timesteps)
        scheduler.sigmas = ctx.record("timesteps.sigmas", scheduler.sigmas)

    def encoded(*arguments, **options):
        positive, negative = encode(*arguments, **options)
        positive, negative = ctx.record("text", positive), ctx.record("text.negative", negative)
        if case.get("stages") == ["text"]:
            raise TextIsEnough
        return positive, negative

    def stepped(velocity, timestep, latents, **options):
        number = next(taken)
        velocity = ctx.record("denoising.model", velocity, number)
        after = step(velocity, timestep, latents, return_dict=False)[0]
        return (ctx.record("denoising", after, number),)

    pipeline.encode_prompt = encoded
    pipeline.prepare_latents = lambda *arguments, **options: ctx.record("latents", prepare(*arguments, **options))
    scheduler.set_timesteps, scheduler.step = on_the_grid, stepped
    try:
        video = pipeline(
            prompt=case["prompt"],
            negative_prompt=case["negative"],
            height=case["height"],
            width=case["width"],
            num_frames=case["frames"],
            num_inference_steps=case["steps"],
            guidance_scale=float(inputs["guidance"]),
            generator=torch.Generator("cpu").manual_seed(int(inputs["seed"])),
            output_type="pt",
        ).frames
        ctx.record("decode", video.transpose(1, 2))
    except TextIsEnough:
        pass
    finally:
        del pipeline.encode_prompt, pipeline.prepare_latents, scheduler.set_timesteps, scheduler.step


def call_port(pipeline, inputs, ctx):
    """Run the pipeline's own stages one after another, as its forward does, and record what each leaves."""
    from fastvideo.pipelines.pipeline_batch_info import ForwardBatch

    case, scheduler = ctx.case, pipeline.modules["scheduler"]
    step = scheduler.step
    taken = iter(range(case["steps"] + 1))

    def stepped(velocity, timestep, latents, **options):
        number = next(taken)
        velocity = ctx.record("denoising.model", velocity, number)
        after = step(velocity, timestep, latents, **options)[0]
        return (ctx.record("denoising", after, number),)

    batch = ForwardBatch(
        data_type="video",
        prompt=case["prompt"],
        negative_prompt=case["negative"],
        height=case["height"],
        width=case["width"],
        num_frames=case["frames"],
        num_inference_steps=case["steps"],
        guidance_scale=float(inputs["guidance"]),
        seed=int(inputs["seed"]),
        do_classifier_free_guidance=True,
        negative_prompt_embeds=[],
    )
    scheduler.step = stepped
    try:
        for name, stage in pipeline._stage_name_mapping.items():
            batch = stage(batch, pipeline.fastvideo_args)
            if name == "prompt_encoding_stage":
                batch.prompt_embeds = [ctx.record("text", batch.prompt_embeds[0])]
                batch.negative_prompt_embeds = [ctx.record("text.negative", batch.negative_prompt_embeds[0])]
                if case.get("stages") == ["text"]:
                    break
            elif name == "timestep_preparation_stage":
                batch.timesteps = scheduler.timesteps = ctx.record("timesteps", batch.timesteps)
                scheduler.sigmas = ctx.record("timesteps.sigmas", scheduler.sigmas)
            elif name == "latent_preparation_stage":
                batch.latents = ctx.record("latents", batch.latents)
            elif name == "decoding_stage":
                batch.output = ctx.record("decode", batch.output)
    finally:
        del scheduler.step
