"""Licences recognised by their sentences, and what is not recognised said to be unknown."""

from __future__ import annotations

import pytest
from fastvideo_port.port.licence import recognise

MIT = """MIT License\n\nCopyright (c) 2024 X

Permission is hereby granted, free of charge, to any person obtaining a copy
The above copyright notice and this permission notice shall be included in all copies"""
BSD3 = """Redistribution and use in source and binary forms, with or without modification, are permitted ...
Neither the name of the copyright holder nor the names of its contributors may be used to endorse or promote"""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Apache License\n  Version 2.0, January 2004", "Apache-2.0"),
        (MIT, "MIT"),
        (BSD3, "BSD-3-Clause"),
        (BSD3.split("Neither")[0], "BSD-2-Clause"),
        ("GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007", "GPL-3.0"),
        ("GNU LESSER GENERAL PUBLIC LICENSE Version 3\n ... the GNU General Public License", "LGPL-3.0"),
        ("GNU AFFERO GENERAL PUBLIC LICENSE Version 3", "AGPL-3.0"),
        ("Creative Commons Attribution-NonCommercial 4.0 International", "CC-BY-NC-4.0"),
        ("TENCENT HUNYUAN COMMUNITY LICENSE AGREEMENT", "unknown"),
        ("MIT License, for non-commercial use only.\n" + MIT, "unknown"),
        ("You may do as you like.", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_licence_is_recognised_by_its_words(text: str, name: str) -> None:
    found = recognise(text, "LICENSE")
    assert found.name == name and found.words


def test_an_unknown_licence_says_what_can_be_seen() -> None:
    assert "community licence" in recognise("Tencent Community License", "LICENSE.txt").words
    assert "a person has to read LICENSE.txt" in recognise("?", "LICENSE.txt").words
