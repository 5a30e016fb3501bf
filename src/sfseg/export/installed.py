"""Libraries that only an export needs."""

from importlib.util import find_spec

from sfseg.errors import ConfigError

NEEDED = ("onnx", "onnxscript", "onnxruntime")


def require_installed() -> None:
    """Refuse an export before anything is read, where the libraries it needs are not there.

    Raises:
        ConfigError: names them and the line that installs them.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(f"sfseg-export needs {', '.join(missing)}: pip install 'sfseg[export]'")
