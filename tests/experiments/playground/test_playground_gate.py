"""What the page answers, request by request, and what it refuses before anything is read."""

import asyncio
import base64
import dataclasses
import functools
import io
import json
import pathlib
import types

import numpy as np
import pytest
from PIL import Image

from diffusion.experiments.playground import control_fields, page_request, region_fields, source
from diffusion.experiments.playground.gate import BODY, Gate
from diffusion.experiments.playground.known_fields import Fields
from diffusion.io import pictures
from diffusion.models.attachment import Attachment
from diffusion.text_to_image.picture_controls import Control

HERE = "127.0.0.1:7860"


def answered(headers, host="127.0.0.1", kind="http"):
    """The status of the answer; 200 where the page is reached."""
    sent = []

    async def page(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError("the body was read")

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    asyncio.run(Gate(page, host)({"type": kind, "headers": raw}, receive, send))
    return sent[0].get("status", sent[0]["type"])


@pytest.mark.parametrize("host, status", [
    ("127.0.0.1:7860", 200), ("localhost:7860", 200), ("[::1]:7860", 200), ("LOCALHOST", 200),
    ("evil.example:7860", 403), ("127.0.0.1.evil.example", 403), ("localhost.evil.example", 403), ("", 403),
    ("evil.example@127.0.0.1:7860", 200), ("127.0.0.1@evil.example", 403), ("192.168.0.7:7860", 403), ("[::1", 403),
    ("127.0.0.1:7860:x", 200), ("127.0.0.1/evil.example", 200),
])  # fmt: skip
def test_other_names_are_not_answered(host, status):
    assert answered([("host", host)]) == status
    assert answered([("host", "my.machine:1")], "my.machine") == 200


def test_at_all_addresses_each_address_is_a_name_and_foreign_names_are_none():
    for host in ("192.168.0.7:7860", "[fe80::1]:7860", HERE):
        assert answered([("host", host)], "0.0.0.0") == 200
    assert answered([("host", "evil.example")], "0.0.0.0") == 403


CALL = "/gradio_api/call/v2/generate"


def posted(body, path=CALL, parts=1):
    """(status, words) of the answer to a body that comes in parts; 200 and the body where the page is reached."""
    size = max(1, -(-len(body) // parts))
    messages = [{"body": body[i : i + size], "more_body": i + size < len(body)} for i in range(0, len(body) or 1, size)]
    sent = []

    async def page(scope, receive, send):
        content = (await receive()).get("body", b"")
        await send({"status": 200})
        await send({"body": content})

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(
        Fields(page, "/call/v2/generate", ("label", "seed"))(
            {"type": "http", "method": "POST", "path": path}, receive, send
        )
    )
    return sent[0]["status"], sent[1]["body"].decode(errors="replace")


@pytest.mark.parametrize("body, words", [
    (b'{"lable": 1}', "'lable' is not a field. Valid: label, seed"), (b"[1]", "the body is a list"),
    (b'{"label": 1', "the body is not valid JSON"), (b"[" * 100_000, "not valid JSON"), (b"\xff", "not valid JSON"),
    (b'{"session_hash": "a"}', "'session_hash' is not a field"),
    (b"", "not valid JSON"), (b'{"' + b"x" * 10**6 + b'": 1}', " ... is not a field"),
])  # fmt: skip
def test_a_body_with_an_unknown_field_is_answered_by_the_valid_ones(body, words):
    status, said = posted(body)
    assert status == 400 and words in json.loads(said)["error"]
    assert posted(body, "/gradio_api/call/v2/generate/")[0] == 400
    assert posted(body, "/gradio_api/upload")[0] == 200


def test_a_body_of_known_fields_reaches_the_page_as_it_came():
    for body in (b'{"label": 1, "seed": 7}', b"{}"):
        for parts in (1, 2):
            assert posted(body, parts=parts) == (200, body.decode())


@pytest.mark.parametrize("headers, status", [
    ([("origin", "http://127.0.0.1:7860")], 200),
    ([("origin", "http://127.0.0.1:8000")], 403),
    ([("origin", "http://localhost:7860")], 403),
    ([("origin", "http://evil.example")], 403),
    ([("origin", "null")], 403),
    ([("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], 403),
    ([("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], 200),
    ([("sec-fetch-site", "same-origin")], 200),
    ([("host", "localhost")], 400),
    ([("content-length", str(BODY))], 200),
    ([("content-length", str(BODY + 1))], 413),
    ([("content-length", "300000000")], 413),
    ([("content-length", "9" * 5000)], 413),
    ([("content-length", "-1")], 400),
    ([("transfer-encoding", "chunked")], 411),
])  # fmt: skip
def test_other_origins_and_large_bodies_are_not_answered(headers, status):
    assert answered([("host", HERE), *headers]) == status


def test_sockets_and_the_servers_own_messages():
    assert answered([("host", "evil.example")], kind="websocket") == "websocket.close"
    assert answered([], kind="lifespan") == 200


def coded(size):
    file = io.BytesIO()
    Image.new("L", size).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_numbers_are_checked_before_a_picture_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(page_request, "keep", lambda *_: pytest.fail("a picture was decoded"))
    for wrong in ({"steps": 10**6}, {"margins": [10**5, 0, 0, 0]}, {"resamplings": 10**6}, {"batch": 10**6}):
        with pytest.raises(ValueError, match=r"\. Valid: "):
            page_request.received({**wrong, "image": "sent"}, tmp_path, lambda request: None)


def test_a_picture_is_measured_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "read", lambda *_: pytest.fail("pixels were decoded"))
    with pytest.raises(ValueError, match=r"has 5000 x 4000 pixels\. Valid: at most 16,777,216"):
        page_request.received({"image": coded((5000, 4000))}, tmp_path, lambda request: None)


def test_a_request_that_the_model_cannot_do_keeps_no_picture(tmp_path):
    model = types.SimpleNamespace(name="made", prompts=True, classes=0, attachments={"edges": None})
    check = functools.partial(source.check, model)
    control = {"attachment": "edges", "picture": coded((8, 4))}
    wrong = [{"controls": [{**control, "attachment": "depth"}]}, {"label": 3, "controls": [control]}]
    for sent, message in zip(wrong, (r"'depth' is not an attachment of this model\. Valid: edges", "label = 3")):
        with pytest.raises(ValueError, match=message):
            page_request.received(sent, tmp_path, check)
    with pytest.raises(ValueError, match="a list of tables: each needs attachment and picture"):
        page_request.received({"controls": [{**control, "picture": ""}]}, tmp_path, check)
    assert not any(tmp_path.iterdir())
    request = page_request.received(
        {"controls": [{**control, "mask": ""}], "reference": coded((8, 8))}, tmp_path, check
    )
    assert request.controls[0].mask is None and pictures.read(request.reference).shape == (8, 8, 3)


def test_fields_of_controls_are_those_that_an_attachment_takes():
    """A mask of one that acts within it, a kind of a union; what is sent and shown again is the same."""
    one = Attachment({}, lambda *_: {})
    attachments = {
        "edges": one,
        "style": dataclasses.replace(one, masked=True),
        "any": dataclasses.replace(one, modes=3),
        "paint": dataclasses.replace(one, inpaints=True),
        "none": one,
    }
    always = {"picture", "weight", "from", "to"}
    names = {name: control_fields.parts(name, each).keys() - always for name, each in attachments.items()}
    assert names == {"edges": set(), "style": {"mask"}, "any": {"kind"}, "paint": {"mask"}, "none": set()}
    assert control_fields.parts("paint", attachments["paint"])["mask"].label.endswith("is repainted")
    controls = [
        Control("edges", "a.png", 0.5, (0.2, 1.0)),
        Control("style", "b.png", 1.0, (0.0, 0.5), "m.png"),
        Control("any", "c.png", mode=2),
    ]
    fields = control_fields.shown(controls, attachments)
    assert fields["any: kind"] == 2 and fields["style: mask"] == "m.png" and fields["none: picture"] is None
    values = {"steps": 3, **fields}
    sent = control_fields.sent(values, attachments, lambda path: f"sent {path}")
    assert values == {"steps": 3}
    assert [one["picture"] for one in sent] == ["sent a.png", "sent b.png", "sent c.png"]
    assert [one.get("mask") for one in sent] == [None, "sent m.png", None]
    back = lambda one: Control.read(one | {part: one[part][5:] for part in control_fields.IMAGES if part in one})
    assert list(map(back, sent)) == controls


def test_two_masks_of_one_name_are_refused_where_a_line_names_them():
    """The second one stood for both."""
    masks = ["first/left.png", "second/left.png", "second/right.png"]
    with pytest.raises(
        ValueError, match=r"two masks named 'left\.png' were uploaded\. Valid: masks of different names"
    ):
        region_fields.sent(["a dog:mask=right.png", "a red ball:mask=left.png"], masks, str)
    (dog,) = region_fields.sent(["a dog:mask=right.png"], masks, str)
    assert dog["where"] == "second/right.png"
    (ball,) = region_fields.sent(["a red ball:mask=left.png"], masks[:1] * 2, str)  # one file, uploaded twice
    assert ball["where"] == "first/left.png"


def test_regions_have_masks_of_their_own(tmp_path, monkeypatch):
    """A line names a file that was uploaded; what is sent is kept, and shown again by its name."""
    mask = np.zeros((8, 4), bool)
    mask[:2] = True
    Image.fromarray(mask).save(tmp_path / "left.png")
    lines = ["a dog:0.0,0.0,0.5,1.0", "a red ball:mask=left.png"]
    encoded = lambda path: base64.b64encode(pathlib.Path(path).read_bytes()).decode()
    sent = region_fields.sent(lines, [str(tmp_path / "left.png")], encoded)
    assert sent[0] == lines[0] and sent[1]["prompt"] == "a red ball"
    with pytest.raises(ValueError, match=r"no mask 'left\.png' was uploaded\. Valid: right\.png"):
        region_fields.sent(lines, ["elsewhere/right.png"], encoded)
    inputs = tmp_path / "inputs"
    request = page_request.received({"prompt": "a lawn", "regions": sent}, inputs, lambda request: None)
    box, held = request.regions
    assert box.where == (0, 0, 0.5, 1) and pathlib.Path(held.where).parent == inputs
    np.testing.assert_array_equal(held.mask((8, 4)), mask)
    text, masks = region_fields.shown(request.regions)
    assert masks == [held.where] and region_fields.sent(text.splitlines(), masks, str)[1]["where"] == held.where
    for regions, words in (
        ([f"a red ball:mask={held.where}"], "paths are not read"),
        ([["a red ball", held.where]], "paths are not read"),
        ("a red ball", "a list of texts"),
    ):
        with pytest.raises(ValueError, match=words):
            page_request.received({"prompt": "a lawn", "regions": regions}, inputs, lambda request: None)
    usual = dataclasses.replace(request, regions=())
    for folder, number in ((inputs, 2), (tmp_path / "other", 0)):
        monkeypatch.setattr(page_request.png, "read", lambda path: {"regions": request.regions})
        assert len(page_request.read_file("made.png", usual, folder).regions) == number


def test_what_is_sent_is_kept(tmp_path):
    request = page_request.received({"image": coded((8, 4)), "steps": 3.0, "mask": ""}, tmp_path, lambda request: None)
    np.testing.assert_array_equal(pictures.read(request.image), np.zeros((4, 8, 3)))
    assert (request.steps, request.mask) == (3, None)
    with pytest.raises(ValueError, match="picture must be a file in base64"):
        page_request.received({"image": [1]}, tmp_path, lambda request: None)
