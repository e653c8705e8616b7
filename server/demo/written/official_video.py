"""The official video: diffusers' WanPipeline on the same weights, prompt, noise and guidance as the example.

python official_video.py CHECKPOINT OUTPUT.mp4 [DEVICE]

As its users are advised: transformer and text encoder in bfloat16, the VAE in float32, its own scheduler. The noise is
the same because both pipelines draw it from torch's CPU generator of the same seed.
"""

import sys
from pathlib import Path

import av
import torch
from diffusers import AutoencoderKLWan, WanPipeline


def main() -> None:
    """Generate and write."""
    checkpoint, output = sys.argv[1], Path(sys.argv[2])
    vae = AutoencoderKLWan.from_pretrained(checkpoint, subfolder="vae", torch_dtype=torch.float32)
    pipeline = WanPipeline.from_pretrained(checkpoint, vae=vae, torch_dtype=torch.bfloat16)
    pipeline.to(sys.argv[3] if len(sys.argv) > 3 else "cpu")
    pipeline.set_progress_bar_config(disable=True)
    video = pipeline(
        prompt="a red fox runs over the snow",
        negative_prompt="blurred low quality",
        height=96,
        width=160,
        num_frames=9,
        num_inference_steps=6,
        guidance_scale=4.0,
        generator=torch.Generator("cpu").manual_seed(1024),
        output_type="np",
    ).frames[0]
    frames = (video * 255).clip(0, 255).astype("uint8")
    output.parent.mkdir(parents=True, exist_ok=True)
    # Hardly lossy: at the usual quality the encoder differs more from itself than the pipelines do.
    with av.open(str(output), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "6"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main()
