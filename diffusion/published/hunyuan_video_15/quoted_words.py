"""The words in quotes of a prompt, which the second text encoder of HunyuanVideo 1.5 reads alone."""

import re

QUOTED = re.compile(r"\"(.*?)\"|“(.*?)”")


def in_quotes(prompt: str) -> str:
    """The words in quotes of a prompt, as their encoder reads them; "" without any."""
    words = dict.fromkeys(straight or curved for straight, curved in QUOTED.findall(prompt))
    return "".join(f'Text "{one}". ' for one in words)
