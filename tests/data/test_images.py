"""Images of every kind become small tensors; folders become data sets; what is broken or hostile is named."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from harken.data.digits import read_digits
from harken.data.images import Labels, digits_set, normalised, read_folder, read_image
from harken.errors import InputError

GREY, COLOUR = Labels(("a",), 4, channels=1), Labels(("a",), 4)
DIGIT = Labels(("a",), 8, channels=1, prepare="digit")


def halves(mode: str = "L", size: tuple[int, int] = (8, 8)) -> Image.Image:
    """Black above, white below."""
    array = np.zeros((size[1], size[0]), np.uint8)
    array[size[1] // 2 :] = 255
    return Image.fromarray(array).convert(mode)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "webp"])
@pytest.mark.parametrize("labels", [GREY, COLOUR])
def test_kinds_of_files(tmp_path, ending, labels):
    halves("RGB", (16, 16)).save(tmp_path / f"a.{ending}")
    image = read_image(tmp_path / f"a.{ending}", labels)
    assert image.shape == (labels.channels, 4, 4)
    assert image.dtype == torch.uint8
    assert int(image[:, 0].max()) < 20
    assert int(image[:, -1].min()) > 235


def test_it_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    halves("RGB").save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png", GREY)
    assert image[0, 0].min() > 200 > 50 > image[0, -1].max()


def test_the_middle_is_cut_out(tmp_path):
    array = np.zeros((8, 24, 3), np.uint8)
    array[:, 8:16] = (255, 0, 0)
    Image.fromarray(array).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", COLOUR)
    assert image[0].min() > 200
    assert image[1:].max() < 50


def test_sixteen_bits_become_eight(tmp_path):
    Image.fromarray(np.full((4, 4), 32768, np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", GREY).unique().tolist() == [128]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    image = halves("L").convert(mode)
    image.putalpha(0)
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", GREY).unique().tolist() == [255]


def test_a_palette_is_resolved(tmp_path):
    halves("RGB").quantize(2).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", GREY)[0, [0, -1], 0].tolist() == [0, 255]


@pytest.mark.parametrize("ground", [0, 255])
def test_writing_is_found_cut_out_and_made_bright(tmp_path, ground):
    page = np.full((60, 90), ground, np.uint8)
    page[10:50, 62:66] = 255 - ground  # a one, off the middle
    Image.fromarray(page).save(tmp_path / "one.png")
    image = read_image(tmp_path / "one.png", DIGIT)[0]
    assert image[:, 3:5].min() > 80
    assert image[:, :3].max() == image[:, 5:].max() == 0


@pytest.mark.parametrize("shade", [0, 7, 255])
def test_an_empty_page_stays_empty(tmp_path, shade):
    Image.fromarray(np.full((20, 20), shade, np.uint8)).save(tmp_path / "page.png")
    assert read_image(tmp_path / "page.png", DIGIT).max() == 0


def test_digits_are_taken_for_what_they_are(tmp_path):
    _, held_out = read_digits()
    enlarged = ((held_out.images[3, 0] + 1) * 127.5).round().to(torch.uint8).numpy().repeat(10, 0).repeat(10, 1)
    Image.fromarray(np.pad(enlarged, 40)).save(tmp_path / "a.png")
    again = read_image(tmp_path / "a.png", DIGIT)[0].float() / 127.5 - 1
    assert float((again - held_out.images[3, 0]).abs().mean()) < 0.25


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more than it holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [11_000, 2**31 - 1])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(bomb(side, side))
    with pytest.raises(InputError, match=r"bomb\.png"):
        read_image(tmp_path / "bomb.png", GREY)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", bomb(64, 64), b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_named_in_one_line(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png' is not a readable image: .") as caught:
        read_image(tmp_path / "a.png", GREY)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no image"):
        read_image(tmp_path / "nowhere.png", GREY)


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("dark", "light")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for item in range(10):
            image = Image.fromarray(np.full((9, 9, 3), 200 * number + item, np.uint8))
            image.save(tmp_path / "set" / name / f"{item}.png")
    return tmp_path / "set"


def test_a_share_of_every_class_is_held_out(folder):
    data = read_folder(folder, image_size=4, held_out=0.3, seed=1)
    assert data.labels.names == ("dark", "light")
    assert data.train.labels.bincount().tolist() == [7, 7]
    assert data.held_out.labels.bincount().tolist() == [3, 3]
    shades = [set(part.images[:, 0, 0, 0].tolist()) for part in (data.train, data.held_out)]
    assert not shades[0] & shades[1]
    assert ((data.train.images[:, 0, 0, 0] >= 200) == (data.train.labels == 1)).all()
    again, other = (read_folder(folder, image_size=4, held_out=0.3, seed=seed) for seed in (1, 2))
    assert torch.equal(again.held_out.images, data.held_out.images)
    assert not torch.equal(other.held_out.images, data.held_out.images)


def test_broken_files_are_left_out_and_named(folder):
    (folder / "dark" / "3.png").write_bytes(b"")
    (folder / "light" / "notes.txt").write_text("not an image")
    data = read_folder(folder, image_size=4)
    assert len(data.train.labels) + len(data.held_out.labels) == 19
    assert [("3.png" in text) for text in data.unreadable] == [True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: [path.unlink() for path in (folder / "dark").iterdir()], "has 1 sub-folders with images"),
        (lambda folder: [(folder / "dark" / f"{i}.png").unlink() for i in range(9)], "'dark' has 1 readable images"),
    ],
)
def test_too_few_classes_or_images_are_told(folder, change, message):
    change(folder)
    with pytest.raises(InputError, match=message):
        read_folder(folder, image_size=4)


def test_what_does_not_fit_into_memory_is_told(folder, monkeypatch):
    monkeypatch.setattr("harken.data.images.LARGEST_SET", 100)
    with pytest.raises(InputError, match="lower --image-size"):
        read_folder(folder, image_size=4)


def test_labels_are_kept_beside_the_weights(tmp_path):
    labels = Labels(("Äpfel", "1"), 16, channels=1, prepare="digit")
    labels.write(tmp_path)
    (tmp_path / "best").mkdir()
    assert Labels.read(tmp_path) == Labels.read(tmp_path / "best") == labels


@pytest.mark.parametrize(
    "entries",
    [[], {}, {"names": 3, "image_size": 4}, {"names": ["a"], "image_size": 10**9}, {"names": ["a"], "image_size": "4"}],
)
def test_hostile_labels_are_refused(tmp_path, entries):
    (tmp_path / "classes.json").write_text(json.dumps(entries))
    with pytest.raises(InputError, match="does not say what the classes are called"):
        Labels.read(tmp_path)


def test_the_digits_are_split_by_writer():
    data = digits_set(16)
    assert data.train.images.shape == (1497, 1, 16, 16)
    assert data.held_out.images.shape == (300, 1, 16, 16)
    assert data.train.images.min() == 0
    assert data.train.images.max() == 255
    assert normalised(data.train.images).aminmax() == (-1.0, 1.0)
    assert data.labels.prepare == "digit"
