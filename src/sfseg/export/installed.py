"""Libraries that only an export needs."""

from importlib.util import find_spec

from sfseg.errors import ConfigError

NEEDED = {
    ".onnx": ("export", ("onnx", "onnxscript", "onnxruntime")),
    ".xml": ("openvino", ("onnx", "onnxscript", "openvino")),
    ".pt2": ("export", ()),
}
"""By how a file's name ends: the extra that brings them, and their names."""
QUANTISES = "onnxruntime"


def require_installed(suffix: str, *, int8: bool = False) -> None:
    """Refuse an export before anything is read, where the libraries it needs are not there.

    Args:
        suffix: a key of :data:`NEEDED`.
        int8: whether the file is quantised.

    Raises:
        ConfigError: names them and the line that installs them.
    """
    extra, names = NEEDED[suffix]
    names = (*names, *([QUANTISES] if int8 and QUANTISES not in names else []))
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigError(f"sfseg-export needs {', '.join(missing)}: pip install 'sfseg[{extra}]'")
