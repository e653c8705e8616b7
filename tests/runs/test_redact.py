"""No token leaves through a log or an error."""

from __future__ import annotations

import pytest
from fastvideo_port.runs.launch import is_secret
from fastvideo_port.runs.redact import redact


@pytest.mark.parametrize(
    "secret",
    ["hf_abcdefghijklmnop", "ghp_0123456789abcdef0123", "sk-proj-0123456789abcdef", "user:pa55word", "odd-but-secret"],
)
def test_a_token_is_removed_and_the_rest_stays(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "odd-but-secret")
    monkeypatch.setenv("SHORT_TOKEN", "a")
    assert redact(f"a before https://{secret}@host/x after") == "a before https://(redacted)@host/x after"


def test_plain_text_stays() -> None:
    text = "https://host:80/a@b a:b@c hf_x tokenizer_2 http://localhost:8000/x user@host"
    assert redact(text) == text


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "x_password"]
)
def test_a_secret_is_known_by_its_name(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "PATH", "KEYMAP", "CUDA_VISIBLE_DEVICES", "HF_HOME"])
def test_other_variables_are_not_taken_for_secrets(name: str) -> None:
    assert not is_secret(name)
