"""Prompts on which tokenizers, templates and cleaning differ, and what cleaning is tried as an explanation."""

from __future__ import annotations

import html
import importlib
import re
import unicodedata
from collections.abc import Callable

_WORDS = ("a", "slow", "camera", "moves", "over", "the", "harbour", "while", "seven", "Gulls", "circle", "above", "it")

PROMPTS: dict[str, str] = {
    "plain": "A cat walks on the grass, realistic.",
    "empty": "",
    "space": " ",
    "words_600": " ".join(_WORDS[n * 7 % len(_WORDS)] for n in range(600)),
    "emoji": "A dog \U0001f415\u200d\U0001f9ba and a flag \U0001f1eb\U0001f1f7 \U0001f44d\U0001f3fd",
    "chinese": "一只猫在草地上奔跑，电影感，特写镜头。",
    "control": "a\x00b\x07c\x1bd\u200be\u00adf",
    "long_word": "x" * 400 + "Y" * 400,
    "html": "Tom &amp; Jerry &lt;b&gt;bold&lt;/b&gt; &amp;amp; 5 &#8364;",
    "spaces": "  two  spaces\tand a tab   at the end   ",
    "right_to_left": "\u200fקטה הולכת على العشب\u202e reversed",
    "newlines": "first line\nsecond\r\nthird\rfourth\n\n\nlast\u2028separated",
    "capitals": "ÉCOLE Straße İstanbul ǅ NASA",
    "mojibake": "cafÃ© â€œquotedâ€\x9d ﬁne ½ ①",
    "special": "</s> <pad> [CLS] <|im_end|> {prompt} %s",
}
"""Name -> prompt. None may be left out; an adapter's ``make_inputs`` adds more."""

BATCH = ("plain", "words_600", "empty", "chinese")
"""Prompts that are also tokenised together: padding shows there."""


def _whitespace(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _unescape(text: str) -> str:
    return html.unescape(html.unescape(text)).strip()


def _no_control(text: str) -> str:
    return "".join(char for char in text if unicodedata.category(char) not in ("Cc", "Cf") or char in "\n\t")


def _ftfy(text: str) -> str:
    # Only where it is installed; diffusers' pipelines use it in the same way.
    return str(importlib.import_module("ftfy").fix_text(text))


TRANSFORMS: dict[str, tuple[str, Callable[[str], str]]] = {
    "lower": ("lower-cases the prompt", str.lower),
    "strip": ("strips spaces from the ends", str.strip),
    "whitespace": ("makes one space of any white space and strips the ends", _whitespace),
    "html": ("turns HTML entities into characters (html.unescape)", _unescape),
    "ftfy": ("repairs the text with ftfy", _ftfy),
    "clean": ("cleans the prompt (ftfy, html.unescape, white space)", lambda t: _whitespace(_unescape(_try_ftfy(t)))),
    "clean_lower": ("cleans and lower-cases the prompt", lambda t: _whitespace(_unescape(_try_ftfy(t))).lower()),
    "control": ("removes control characters", _no_control),
    "newlines": ("makes a space of every line break", lambda t: re.sub(r"[\r\n\u2028]+", " ", t)),
    "nfc": ("normalises Unicode (NFC)", lambda t: unicodedata.normalize("NFC", t)),
    "nfkc": ("normalises Unicode (NFKC)", lambda t: unicodedata.normalize("NFKC", t)),
    "dot": ("makes a dot of the empty prompt", lambda t: t if t.strip() else "."),
}
"""Name -> what a side would be doing, and how to do it."""


def _try_ftfy(text: str) -> str:
    try:
        return _ftfy(text)
    except ImportError:
        return text
