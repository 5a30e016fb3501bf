"""Pictures of the gallery: every PIL image that a part of an example calls ``picture``."""

from typing import Any

from PIL import Image
from sphinx_gallery.scrapers import figure_rst


def scraped(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save the picture that a part has made, and show it."""
    made = block_vars["example_globals"].pop("picture", None)
    if not isinstance(made, Image.Image):
        return ""
    path = next(block_vars["image_path_iterator"])
    made.save(path)
    return figure_rst([path], gallery_conf["src_dir"])
