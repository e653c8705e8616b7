"""The CPU stand-ins answer fastvideo and nobody else, say what they are, and refuse to compute."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

STANDINS = Path(__file__).resolve().parents[3] / "server" / "demo" / "standins"


def _run(folder: Path, code: str, cuda: str | None = None, **modules: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter with the stand-ins active; ``modules`` are packages that it can import.

    torch is one that says only which build it is, because importing the real one takes seconds.
    """
    for name, text in {"torch": "", **modules}.items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(text, encoding="utf-8")
    (folder / "torch" / "version.py").write_text(f"cuda = {cuda!r}\n", encoding="utf-8")
    activate = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(STANDINS)!r}]\n"
    activate += "import fastvideo_port_cpu_standins as standins; standins.activate()\n"
    return subprocess.run(
        [sys.executable, "-c", activate + code], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


def test_fastvideo_imports_the_names_in_every_form_that_it_uses(tmp_path: Path) -> None:
    text = """
import torchvision, torchvision.transforms.functional as TF
from torchvision import transforms
from torchvision.transforms import InterpolationMode, v2
from torchvision.models.resnet import ResNet
from torchcodec.decoders import VideoDecoder
import torchaudio
class Mine(ResNet): pass
answer = [torchvision.__fastvideo_port_standin__, repr(TF.resize), repr(InterpolationMode.BICUBIC), repr(VideoDecoder)]
"""
    done = _run(tmp_path, "import json, fastvideo; sys.stdout.write(json.dumps(fastvideo.answer))", fastvideo=text)
    assert done.returncode == 0, done.stderr
    sentence, *names = json.loads(done.stdout)
    assert "stand-in" in sentence and "not torchvision" in sentence
    assert names == [
        "<stand-in for torchvision.transforms.functional.resize>",
        "<stand-in for torchvision.transforms.InterpolationMode.BICUBIC>",
        "<stand-in for torchcodec.decoders.VideoDecoder>",
    ]


@pytest.mark.parametrize("use", ["TF.resize(1)", "Mine()", "torchvision.io.read_video('x')"])
def test_using_a_name_raises_and_says_what_is_missing(tmp_path: Path, use: str) -> None:
    text = f"""
import torchvision, torchvision.transforms.functional as TF
from torchvision.models.resnet import ResNet
class Mine(ResNet): pass
{use}
"""
    done = _run(tmp_path, "import fastvideo", fastvideo=text)
    assert done.returncode != 0
    assert "StandInCalled" in done.stderr and "only a stand-in" in done.stderr and "Do: " in done.stderr


def test_other_packages_still_find_that_torchvision_is_not_installed(tmp_path: Path) -> None:
    probe = """
import importlib.util
found = importlib.util.find_spec("torchvision") is not None
try:
    import torchvision
    found = True
except ModuleNotFoundError:
    pass
"""
    # The name begins like fastvideo's on purpose, and the probe runs after fastvideo has got its stand-in.
    code = "import fastvideo, fastvideo_other; sys.exit(fastvideo_other.found or 'torchvision' in sys.modules)"
    done = _run(tmp_path, code, fastvideo="import torchvision\n", fastvideo_other=probe)
    assert done.returncode == 0, done.stderr


def test_an_installed_torchvision_is_left_alone(tmp_path: Path) -> None:
    code = "import fastvideo; sys.exit(fastvideo.torchvision.real != 1)"
    done = _run(tmp_path, code, fastvideo="import torchvision\n", torchvision="real = 1\n")
    assert done.returncode == 0, done.stderr


def test_with_a_cuda_torch_the_absence_shows(tmp_path: Path) -> None:
    done = _run(tmp_path, "import fastvideo", cuda="13.0", fastvideo="import torchvision\n")
    assert "ModuleNotFoundError: No module named 'torchvision'" in done.stderr


def test_activating_prints_nothing_and_loads_no_torch(tmp_path: Path) -> None:
    done = _run(tmp_path, "sys.exit('torch' in sys.modules)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_install_refuses_an_interpreter_that_is_no_virtual_environment(tmp_path: Path) -> None:
    copy = tmp_path / "standins"
    shutil.copytree(STANDINS, copy)
    code = f"import sys; sys.prefix = sys.base_prefix; sys.path.insert(0, {str(copy)!r})\n"
    code += "import install; sys.exit(install.main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no virtual environment" in done.stderr


@pytest.mark.fastvideo
def test_transformers_and_diffusers_do_not_believe_in_torchvision(fastvideo_python: Path) -> None:
    code = """
import sys, diffusers.utils.import_utils as d, transformers.utils as t
exec(compile("import torchvision", "x", "exec"), {"__name__": "fastvideo.models.x", "__package__": "fastvideo.models"})
sys.exit(d.is_torchvision_available() or t.is_torchvision_available())
"""
    done = subprocess.run([str(fastvideo_python), "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
