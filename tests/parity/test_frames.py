"""Decoding: what comes out, what the facts say, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fastvideo_port.parity.errors import ParityError
from fastvideo_port.parity.frame_reader import FrameFacts
from fastvideo_port.parity.frames import open_frames
from fastvideo_port.parity.picture_reader import natural_key
from fastvideo_port.tests.parity.videos import moving_frames, write_folder, write_video
from PIL import Image

Array = np.ndarray[Any, np.dtype[np.uint8]]


def _read(path: Path, size_bytes: int = 1 << 20, root: Path | None = None) -> tuple[Array, FrameFacts, list[int]]:
    with open_frames(path, root=root) as reader:
        batches = list(reader.batches(size_bytes))
        return np.concatenate(batches), reader.facts(), [len(batch) for batch in batches]


def test_a_lossless_video_comes_back_in_order_and_in_bounded_batches(tmp_path: Path) -> None:
    frames = moving_frames(11)
    path = write_video(tmp_path / "a clip.mkv", frames, codec="ffv1", pixel_format="bgr0", fps=24)
    got, facts, batches = _read(path, size_bytes=3 * frames[0].nbytes)
    assert (got == frames).all()
    assert batches == [3, 3, 3, 2]
    assert (facts.kind, facts.frames, facts.width, facts.height, facts.fps) == ("video", 11, 200, 180, 24)
    assert facts.codec == "ffv1" and facts.duration_s == pytest.approx(11 / 24, abs=0.002)
    assert not facts.variable_frame_rate and facts.size_bytes == path.stat().st_size


def test_what_pyav_itself_decodes_is_what_is_yielded(tmp_path: Path) -> None:
    import av

    path = write_video(tmp_path / "a.mp4", moving_frames())
    with av.open(str(path)) as container:
        expected = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert (_read(path)[0] == expected).all()


def test_odd_sizes_keep_every_pixel(tmp_path: Path) -> None:
    frames = moving_frames(3, 179, 199)
    got, facts, _ = _read(write_video(tmp_path / "odd.mp4", frames, pixel_format="yuv444p", crf=8))
    assert got.shape == (3, 179, 199, 3) and (facts.width, facts.height) == (199, 179)
    assert np.abs(got.astype(int) - frames).mean() < 6


def test_ten_bits_and_alpha_are_converted_and_said(tmp_path: Path) -> None:
    frames = moving_frames(3)
    got, facts, _ = _read(write_video(tmp_path / "ten.mp4", frames, pixel_format="yuv420p10le"))
    assert facts.bit_depth == 10 and facts.notes == ("10 bits a channel were reduced to 8",)
    assert got.dtype == np.uint8
    facts = _read(write_video(tmp_path / "a.mov", frames, codec="prores_ks", pixel_format="yuva444p10le"))[1]
    assert "the alpha channel was dropped" in facts.notes


def test_a_variable_frame_rate_is_seen_and_rounding_is_not(tmp_path: Path) -> None:
    frames = moving_frames(12)
    times = [0, 40, 120, 160, 240, 280, 360, 400, 480, 520, 600, 640]
    assert _read(write_video(tmp_path / "vfr.mp4", frames, fps=25, times_ms=times))[1].variable_frame_rate
    # Matroska counts milliseconds: 24 frames a second are gaps of 41 and 42.
    assert not _read(write_video(tmp_path / "cfr.mkv", frames, fps=24))[1].variable_frame_rate


@pytest.mark.parametrize(
    ("name", "options", "codec"),
    [
        ("end.mp4", {}, "libx264"),
        ("front.mp4", {"movflags": "faststart"}, "libx264"),
        ("part.mkv", {}, "libx264"),
        ("part.webm", {}, "libvpx-vp9"),
    ],
)
def test_half_a_file_is_refused_wherever_its_index_lies(
    tmp_path: Path, name: str, options: dict[str, str], codec: str
) -> None:
    path = write_video(tmp_path / name, moving_frames(20), container=options, codec=codec)
    assert _read(path)[1].frames == 20
    content = path.read_bytes()
    for share in (0.05, 0.5, 0.7):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ParityError, match=r"damaged or incomplete|can be decoded") as caught:
            _read(path)
        assert str(path) in caught.value.seen and caught.value.fix


def test_no_log_callback_takes_the_gil_in_a_decoders_threads(tmp_path: Path) -> None:
    """With one, freeing the decoder of a damaged file waited for ever for a thread that waited for the GIL."""
    av.logging.set_level(av.logging.PANIC)
    _read(write_video(tmp_path / "x.mp4", moving_frames(4)))
    assert av.logging.get_level() is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n" * 1000,
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile secret.mp4\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ],
    ids=["empty", "text", "playlist", "concat", "sdp"],
)
def test_text_named_mp4_is_no_video_and_opens_no_other_file(tmp_path: Path, content: bytes) -> None:
    write_video(tmp_path / "secret.mp4", moving_frames(3))
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ParityError, match="can be decoded"):
        _read(tmp_path / "a.mp4")


def test_sound_without_pictures_is_no_video(tmp_path: Path) -> None:
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(ParityError) as caught:
        _read(path)
    assert "no video stream" in caught.value.seen


def test_a_fifo_a_device_and_nothing_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    for path in (tmp_path / "fifo.mp4", Path("/dev/zero"), tmp_path / "absent.mp4", Path("a\0b"), Path("x" * 5000)):
        with pytest.raises(ParityError) as caught:
            open_frames(path)
        assert caught.value.seen and caught.value.fix


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    frames = moving_frames(12, 20, 30)
    folder = write_folder(tmp_path / "frames", frames)
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    got, facts, _ = _read(folder)
    assert (got == frames).all()
    assert (facts.kind, facts.frames, facts.codec, facts.pixel_format, facts.fps) == ("folder", 12, "png", "RGB", None)
    assert facts.notes == ("1 other entries of the folder were left out",)
    assert sorted(["f10", "f9", "f1", "F2"], key=natural_key) == ["f1", "F2", "f9", "f10"]


def test_a_gap_in_the_numbering_is_noted(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", moving_frames(4, 20, 30))
    (folder / "frame_2.png").unlink()
    assert _read(folder)[1].notes == ("the numbering 0..3 has gaps: 3 pictures",)


def test_the_digest_of_a_folder_depends_on_content_and_order(tmp_path: Path) -> None:
    frames = moving_frames(3, 20, 30)
    digests = {
        _read(write_folder(tmp_path / name, part))[1].sha256
        for name, part in (("a", frames), ("same", frames), ("b", frames[::-1]), ("c", frames[:2]))
    }
    assert len(digests) == 3


def test_one_picture_is_one_frame(tmp_path: Path) -> None:
    pixels = moving_frames(1, 20, 30)[0]
    Image.fromarray(pixels).save(tmp_path / "a.webp", lossless=True)
    got, facts, _ = _read(tmp_path / "a.webp")
    assert (got[0] == pixels).all() and (facts.kind, facts.frames) == ("image", 1)


def test_pictures_of_other_kinds_become_rgb(tmp_path: Path) -> None:
    grey = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    Image.fromarray(grey).save(tmp_path / "grey16.png")
    got, facts, _ = _read(tmp_path / "grey16.png")
    assert (got[0, ..., 0] == grey >> 8).all() and facts.bit_depth == 16
    clear = np.dstack([moving_frames(1, 20, 30)[0], np.zeros((20, 30), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    got, facts, _ = _read(tmp_path / "clear.png")
    assert (got[0] == clear[..., :3]).all() and facts.notes == ("the alpha channel was dropped",)


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _other_size(folder: Path) -> None:
    Image.new("RGB", (31, 20)).save(folder / "frame_1.png")


def _text(folder: Path) -> None:
    (folder / "frame_1.png").write_text("hello")


def _cut(folder: Path) -> None:
    content = (folder / "frame_1.png").read_bytes()
    (folder / "frame_1.png").write_bytes(content[: len(content) // 2])


def _twice(folder: Path) -> None:
    Image.new("RGB", (30, 20)).save(folder / "frame_1.jpg")


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "frame_9.png")


def _directory(folder: Path) -> None:
    (folder / "frame_9.png").mkdir()


def _animation(folder: Path) -> None:
    pictures = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    (folder / "frame_1.png").unlink()
    pictures[0].save(folder / "frame_1.webp", save_all=True, append_images=pictures[1:])


@pytest.mark.parametrize("spoil", [_empty, _other_size, _text, _cut, _twice, _fifo, _directory, _animation])
def test_a_spoiled_folder_is_refused(tmp_path: Path, spoil: Any) -> None:
    folder = write_folder(tmp_path / "frames", moving_frames(3, 20, 30))
    assert _read(folder)[1].frames == 3
    spoil(folder)
    with pytest.raises(ParityError) as caught:
        _read(folder)
    assert caught.value.seen and caught.value.fix


def test_links_out_of_the_root_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    outside = write_folder(tmp_path / "outside", moving_frames(2, 20, 30))
    video = write_video(tmp_path / "outside.mp4", moving_frames(2))
    (root / "linked").symlink_to(outside)
    (root / "linked.mp4").symlink_to(video)
    inside = write_folder(root / "inside", moving_frames(1, 20, 30))
    assert _read(inside, root=root)[1].frames == 1
    (inside / "frame_1.png").symlink_to(outside / "frame_1.png")
    for path in (root / "linked", root / "linked.mp4", inside):
        with pytest.raises(ParityError, match="outside the worktree"):
            _read(path, root=root)
        assert _read(path)[1].frames == 2


def test_a_picture_or_a_video_that_is_replaced_after_it_was_hashed_is_not_taken_for_it(tmp_path: Path) -> None:
    """What is decoded is what the hash is of: by a link, by other content, by a file renamed over it."""
    frames = moving_frames(3)
    folder = write_folder(tmp_path / "frames", frames)
    picture = sorted(folder.iterdir())[1]
    with open_frames(folder) as reader:
        other = write_folder(tmp_path / "other", frames[::-1])
        picture.unlink()
        picture.symlink_to(sorted(other.iterdir())[0])
        with pytest.raises(ParityError, match="changed while it was read"):
            list(reader.batches())
    video = write_video(tmp_path / "a.mkv", frames, codec="ffv1", pixel_format="bgr0")
    with open_frames(video) as reader:
        write_video(tmp_path / "b.mkv", frames[::-1], codec="ffv1", pixel_format="bgr0").rename(video)
        with pytest.raises(ParityError, match="changed while it was read"):
            list(reader.batches())
    with open_frames(video) as reader:
        video.write_bytes(video.read_bytes())
        with pytest.raises(ParityError, match="changed while it was read"):
            list(reader.batches())
