"""File lists, splits and lists of classes that name what they must not."""

import io
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from payload import TOUCH, flipped, truncated
from scipy.io import savemat

sys.path.append(str(Path(__file__).parents[2] / "data"))
from make import own_folder, picture, write

from sfseg.data.classes_file import load_label_space
from sfseg.data.folder import FolderDataset
from sfseg.data.layouts import folder
from sfseg.data.split_file import read_split
from sfseg.errors import ConfigError

GOOD = b"images/train/0.png"
LINES = {
    "up": b"../secret.png", "far up": b"../../../../../../etc/passwd", "absolute": b"/etc/passwd",
    "up in the middle": b"images/../../secret.png", "up at the end": b"images/..",
    "zero": b"images/train/0.png\0.png", "zero and up": b"images/train/0.png\0/../../../secret.png",
    "carriage return": b"images/train/0.png\rb", "newline": b"images/train/0\n.png",
    "vertical tab": b"images/train/0.png\x0b../secret.png", "escape": b"\x1b[2Jimages/train/0.png",
    "separators of lines": "images/train/0.png\u2028../secret.png".encode(),
    "right to left": "images/\u202egnp.0".encode(), "backslash": b"images\\train\\0.png",
    "backslash and up": b"..\\secret.png", "drive": b"C:\\secret.png", "home": b"~/secret.png",
    "variable": b"$HOME/secret.png", "address": b"http://127.0.0.1/0.png",
    "file address": b"file:///etc/passwd", "three columns": b"a.png b.png c.png",
    "mask above": GOOD + b"\t../secret.png", "mask absolute": GOOD + b"\t/etc/passwd",
    "no utf-8": b"images/\xff\xfe.png", "very long": b"a" * 70000, "long": b"b" * 300 + b".png",
    "binary": bytes(range(256)), "empty": b"", "comments": b"# nothing\n\n#\n", "dot": b".",
    "link": b"images/leak.png", "linked folder": b"leak/secret.png", "no image": b"classes.yaml",
    "template": b"{split}%s%n${oc.env:HOME}", "wide": "\uff0e\uff0e/secret.png".encode(),
}  # fmt: skip


def listed(line: bytes) -> str:
    """Read all that a list names: files of the set, or an error."""
    root = Path("set")
    own_folder(root, splits=("train",))
    write(Path("secret.png"), picture(5))
    (root / "images" / "leak.png").symlink_to(Path("secret.png").absolute())
    (root / "leak").symlink_to(Path().absolute())
    (root / "list.txt").write_bytes(line)
    scenes = folder(root, "train", classes=root / "classes.yaml", file_list="list.txt")
    dataset = FolderDataset(scenes)
    inside = root.resolve()
    for index in range(len(dataset)):
        dataset[0, index]
        assert scenes.images[index].resolve().is_relative_to(inside)
    return "harmless"


def split(data: bytes) -> str:
    """Frame numbers of a damaged split.mat: numbers, or an error."""
    Path("split.mat").write_bytes(data)
    numbers = read_split(Path("split.mat"), "train")
    assert numbers.dtype.kind == "i" and len(numbers)
    return "harmless"


def classes(text: str) -> str:
    """A list of classes, as every command reads it."""
    Path("classes.yaml").write_text(text)
    try:
        space = load_label_space("classes.yaml")
    except ValueError as error:
        # As the commands say it.
        raise ConfigError(str(error)) from error
    assert all(len(name) < 100 for name in space.classes)
    return "harmless"


def yamls() -> dict[str, str]:
    laughs = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    for k in range(1, 9):
        laughs.append(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]")
    return {
        "object": f"classes: !!python/object/apply:os.system ['{TOUCH}']",
        "new object": "classes: !!python/object/new:os.system [x]",
        "module": "classes: !!python/module:os",
        "laughs": "\n".join([*laughs, "classes: [*a8, b]"]),
        "deep": f"classes: {'[' * 5000}{']' * 5000}",
        "itself": "classes: &a [b, *a]",
        "mapping": "classes: {a: b}",
        "numbers": "classes: [1, 2, 2.5]",
        "one": "classes: [a]",
        "palette": "classes: [a, b]\npalette: [[1, 2], [300, -1, nan]]",
        "subsets": "classes: [a, b]\nsubsets: {x: [0, 99]}",
        "too many": f"classes: [{', '.join(f'c{k}' for k in range(300))}]",
        "zero": 'classes: ["a\\0b", b]',
        "not yaml": "classes: [a, b\n}:",
        "name": "classes: [a, b]\nname: [[], {}]",
    }


def cases() -> Iterator[tuple[str, Callable[[], str]]]:
    for name, line in LINES.items():
        yield f"list: {name}", partial(listed, line)
    buffer = io.BytesIO()
    savemat(buffer, {"trainIds": [[4], [1], [2]], "valIds": [[2]], "testIds": [[3]]})
    for what, data in (*truncated(buffer.getvalue(), 6), *flipped(buffer.getvalue(), 12)):
        yield f"split.mat {what}", partial(split, data)
    for name, text in yamls().items():
        yield f"classes: {name}", partial(classes, text)
