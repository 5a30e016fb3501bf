"""``sfseg-generate``: a diffusion model learns the look of a place and draws pictures of it."""

import logging
from collections.abc import Callable

from omegaconf import DictConfig

from sfseg.commands.generate_images import images
from sfseg.commands.generate_report import report
from sfseg.config.composition import subcommands

log = logging.getLogger(__name__)

USAGE = """\
usage: sfseg-generate personalise|images|report [key=value ...]

  personalise  teach a diffusion model the look of a place from one picture of it, or some
  images       a set of images from prompts, by that model or any other
  report       a page on a set beside images of the target

sfseg-generate images --help lists the settings.
"""


def main() -> None:
    """Entry point of ``sfseg-generate``; its first argument says what to do."""
    subcommands(TASKS, USAGE)


TASKS: dict[str, Callable[[DictConfig], None]] = {"images": images, "report": report}

if __name__ == "__main__":
    main()
