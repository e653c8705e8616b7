"""Generate a video with FastVideo's own Wan pipeline, on whatever device FastVideo runs on here.

python examples/inference/basic/basic_wan_tiny.py --model FOLDER_OR_ID --output outputs/wan_tiny.mp4
"""

import argparse
import json
import os
import resource
import socket
import time
from pathlib import Path

import av
import torch

MODEL = "fastvideo-port/Wan2.1-T2V-tiny-Diffusers"
PROMPT = "a red fox runs over the snow"
NEGATIVE = "blurred low quality"
FPS = 8


def one_process() -> None:
    """What torchrun would set for a single process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    for name, value in alone.items():
        os.environ.setdefault(name, value)


def main() -> None:
    """Load, generate, write the video, and beside it what it cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--output", type=Path, default=Path("outputs/wan_tiny.mp4"))
    options = parser.parse_args()
    one_process()
    os.environ.setdefault("FASTVIDEO_ATTENTION_BACKEND", "TORCH_SDPA")
    from fastvideo.pipelines.basic.wan.wan_pipeline import WanPipeline
    from fastvideo.pipelines.pipeline_batch_info import ForwardBatch

    pipeline = WanPipeline.from_pretrained(
        options.model,
        dit_cpu_offload=False,
        dit_layerwise_offload=False,
        vae_cpu_offload=False,
        text_encoder_cpu_offload=False,
        use_fsdp_inference=False,
        pin_cpu_memory=False,
    )
    batch = ForwardBatch(
        data_type="video",
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        height=96,
        width=160,
        num_frames=9,
        num_inference_steps=6,
        guidance_scale=4.0,
        seed=1024,
        do_classifier_free_guidance=True,
        negative_prompt_embeds=[],
    )
    began = time.monotonic()
    video = pipeline.forward(batch, pipeline.fastvideo_args).output[0]
    seconds = time.monotonic() - began
    frames = (video * 255).clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    # Hardly lossy: at the usual quality the encoder differs more from itself than the pipelines do.
    with av.open(str(options.output), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "6"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    cost = {"seconds": round(seconds, 2), "memory_gib": round(peak, 2), "device": str(video.device)}
    options.output.with_suffix(".json").write_text(json.dumps(cost) + "\n")


if __name__ == "__main__":
    main()
