"""How the pages of this folder become a site; ``make docs`` builds it."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent / "src")]

from reference import unlisted  # noqa: E402

import sfseg  # noqa: E402

project = "sfseg"
author = copyright = "the sfseg contributors"  # noqa: A001
release = version = sfseg.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    # Ours.
    "configuration",
    "examples",
    "field_lists",
    "mathml",
    "method_pages",
    "reference",
    "repository",
]
exclude_patterns = ["_*", "own_data/**", "notebooks/**", "gallery/**"]
nitpicky = True

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"sfseg {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
pygments_style = "friendly"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_use_ivar = True
napoleon_attr_annotations = False
# Letters that stand for types, of functions that take any.
nitpick_ignore = [
    ("py:class", "sfseg.callbacks.order.Kind"),
    ("py:class", "sfseg.data.check.Result"),
    ("py:class", "sfseg.ops.processes.Item"),
]
# What other projects document on their own pages, and modules that are no part of the reference.
nitpick_ignore_regex = [
    ("py:.*", r"(?!sfseg\.).*"),
    *(("py:.*", name.replace(".", r"\.") + r"(\..*)?") for name in unlisted()),
]

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"plot_",
    "image_scrapers": ("pictures.scraped",),
    "reset_modules": (),
    # Without it the pages show code alone: what every run of the tests can afford.
    "plot_gallery": os.environ.get("SFSEG_GALLERY") == "1",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": float("inf"),
    "write_computation_times": False,
    "abort_on_example_error": True,
    "remove_config_comments": True,
}
