"""The street scenes of the papers, read as their authors ship them.

Every function takes the label space of the task; classes it lacks are void, so that one tree of
files serves the 19 classes of Cityscapes, SYNTHIA's 16 and Cross-City's 13. Names and numbers of
files are those of the data sets' own pages and tools.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from sfseg.data.classes_file import load_label_space
from sfseg.data.files import Files
from sfseg.data.label_ids import (
    LABEL_IDS,
    MAPILLARY_IDS,
    SYNTHIA_IDS,
    SYNTHIA_LANE_MARKING,
    TRAIN_IDS,
)
from sfseg.data.listing import existing, images_below, masks_of, street_files
from sfseg.data.paths import Limits, PathList
from sfseg.data.split_file import read_split
from sfseg.data.street_versions import number, require_rand_cityscapes, vistas_labels
from sfseg.types import IGNORE

CITIES = ("Rome", "Rio", "Tokyo", "Taipei")
CONDITIONS = ("fog", "night", "rain", "snow")
OFFICIAL = {
    "cityscapes": {"train": 2975, "val": 500, "test": 1525},
    "gta5": {"all": 24966, "train": 12403, "val": 6382, "test": 6181},
    "synthia": {"all": 9400, "train": 9000, "val": 400},
    "cross_city": {"train": 3200, "test": 100},
    "bdd100k": {"train": 7000, "val": 1000, "test": 2000},
    "mapillary": {"training": 18000, "validation": 2000, "testing": 5000},
}
"""Images of each split as published, to notice an incomplete download."""


def cityscapes(
    root: str | Path,
    split: str,
    *,
    classes: str | Path = "cityscapes",
    argument: str = "data.root",
    limits: Limits | None = None,
) -> Files:
    """Cityscapes: 2,975 train, 500 val, 1,525 test images of 2048x1024, in folders by city.

    ``leftImg8bit/<split>/<city>/*_leftImg8bit.png`` with ``gtFine/.../*_gtFine_labelIds.png``.
    The labels of ``test`` are dummies, so that split is unlabelled.

    Args:
        root: the folder with ``leftImg8bit`` and ``gtFine``.
        split: train, val or test.
        classes: label space of the task, some of Cityscapes' 19 classes.
        argument: the setting that names ``root``, for messages.
        limits: what may be opened.

    Raises:
        DataError: a folder is missing.
    """
    base = existing(Path(root), argument)
    images = images_below(base, f"leftImg8bit/{split}", argument, limits, "_leftImg8bit.png")
    masks = None
    if split != "test":
        existing(base / "gtFine" / split, argument)
        parts = ("leftImg8bit/", "gtFine/"), ("_leftImg8bit.", "_gtFine_labelIds.")
        masks = masks_of(images, *parts)
    official = OFFICIAL["cityscapes"].get(split)
    ids, ignored = LABEL_IDS, range(34)
    return street_files(
        images, masks, classes, ids, ignored=ignored, official=official, limits=limits
    )


def gta5(
    root: str | Path,
    split: Literal["all", "train", "val", "test"] = "all",
    *,
    classes: str | Path = "cityscapes",
    argument: str = "data.root",
    limits: Limits | None = None,
) -> Files:
    """GTA5 (Richter et al., ECCV 2016): 24,966 frames of about 1914x1052.

    ``images/00001.png`` and ``labels/00001.png``, palette files of Cityscapes' labelIds and 34.
    A few pairs differ in size; their labels are brought to the image's, nearest neighbour.

    Args:
        root: the folder with ``images`` and ``labels``.
        split: ``all``, or a part of the official split of 12,403, 6,382 and 6,181 frames, whose
            ``split.mat`` must lie in the root.
        classes: label space of the task, some of Cityscapes' 19 classes.
        argument: the setting that names ``root``, for messages.
        limits: what may be opened.

    Raises:
        DataError: a folder or the split's file is missing or broken.
    """
    base = existing(Path(root), argument)
    images = images_below(base, "images", argument, limits, ".png")
    existing(base / "labels", argument)
    if split != "all":
        numbers = read_split(base / "split.mat", split)
        names = (f"images/{number:05d}.png" for number in np.sort(numbers))
        images = PathList(base, names)
    masks = masks_of(images, ("images/", "labels/"))
    return street_files(
        images,
        masks,
        classes,
        LABEL_IDS,
        ignored=range(35),
        official=OFFICIAL["gta5"].get(split),
        limits=limits,
        fit_labels=True,
    )


def synthia(
    root: str | Path,
    split: Literal["all", "train", "val"] = "all",
    *,
    classes: str | Path = "cityscapes",
    lane_marking: Literal["ignore", "road"] = "ignore",
    argument: str = "data.root",
    limits: Limits | None = None,
) -> Files:
    """SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016): 9,400 frames of 1280x760.

    ``RGB/0000000.png`` and ``GT/LABELS/0000000.png``, files of 16 bits a channel with the class
    in red and the instance in green.

    Args:
        root: the folder with ``RGB`` and ``GT``.
        split: ``all``; ``train`` is the frames below number 9,000, ``val`` the other 400.
        classes: label space of the task. Terrain, truck and train never occur.
        lane_marking: what class 22 is: nearly all releases ignore it, CRST counts it as road.
        argument: the setting that names ``root``, for messages.
        limits: what may be opened.

    Raises:
        DataError: a folder is missing, or a frame has another name than these have.
        ValueError: another split, or another way with lane markings.
    """
    _one_of("split", split, ("all", "train", "val"))
    _one_of("lane_marking", lane_marking, ("ignore", "road"))
    base = existing(Path(root), argument)
    existing(base / "GT" / "LABELS", argument)
    found = images_below(base, "RGB", argument, limits, ".png")
    names = require_rand_cityscapes(found.names())
    if split != "all":
        names = [n for n in names if (number(n) < 9000) == (split == "train")]
    images = PathList(base, names)
    masks = masks_of(images, ("RGB/", "GT/LABELS/"))
    ids = dict(SYNTHIA_IDS)
    if lane_marking == "road":
        ids["road"] = [*ids["road"], SYNTHIA_LANE_MARKING]
    return street_files(
        images,
        masks,
        classes,
        ids,
        ignored=range(23),
        official=OFFICIAL["synthia"].get(split),
        limits=limits,
        rgb="red",
    )


def cross_city(
    root: str | Path,
    city: str | Sequence[str],
    split: Literal["train", "test"],
    *,
    classes: str | Path = "cross_city",
    argument: str = "data.root",
    limits: Limits | None = None,
) -> Files:
    """NTHU Cross-City (Chen et al., ICCV 2017): 3,200 unlabelled and 100 labelled images a city.

    ``<City>/Images/Train/*.jpg``; ``<City>/Images/Test/*.png`` with
    ``<City>/Labels/Test/*_eval.png`` in Cityscapes' labelIds; 2048x1024. The same basename may
    occur in both splits, up to 89 times, and scenes may overlap. There is no validation split:
    whatever is selected is selected on the test images.

    Args:
        root: the folder with the cities.
        city: Rome, Rio, Tokyo or Taipei, or several of them.
        split: train or test.
        classes: label space of the task; 13 classes are annotated.
        argument: the setting that names ``root``, for messages.
        limits: what may be opened.

    Raises:
        DataError: a folder is missing.
        ValueError: another city or split.
    """
    cities = [city] if isinstance(city, str) else list(city)
    for name in cities:
        _one_of("city", name, CITIES)
    _one_of("split", split, ("train", "test"))
    base = existing(Path(root), argument)
    known = {name: LABEL_IDS[name] for name in load_label_space("cross_city").classes}
    ignored = [*range(34), IGNORE]
    parts = [images_below(base, f"{c}/Images/{split.title()}", argument, limits) for c in cities]
    images = PathList(base, chain.from_iterable(part.names() for part in parts))
    masks = None
    if split == "test":
        for name in cities:
            existing(base / name / "Labels" / "Test", argument)
        masks = masks_of(images, ("/Images/", "/Labels/"), (".png", "_eval.png"))
    official = OFFICIAL["cross_city"][split] * len(cities)
    return street_files(
        images, masks, classes, known, ignored=ignored, official=official, limits=limits
    )


def bdd100k(
    root: str | Path,
    split: str,
    *,
    classes: str | Path = "cityscapes",
    argument: str = "data.root",
    limits: Limits | None = None,
) -> Files:
    """BDD100K's segmentation part: 7,000 train, 1,000 val, 2,000 test images of 1280x720.

    ``images/10k/<split>/*.jpg`` with ``labels/sem_seg/masks/<split>/*.png``, or the older
    ``images/<split>`` with ``labels/<split>/*_train_id.png`` (also below ``seg``); trainIds.

    Args:
        root: the folder with ``images`` and ``labels``.
        split: train, val or test; test has no labels.
        classes: label space of the task, some of Cityscapes' 19 classes.
        argument: the setting that names ``root``, for messages.
        limits: what may be opened.

    Raises:
        DataError: a folder is missing.
    """
    base = existing(Path(root), argument)
    base = base / "seg" if (base / "seg").is_dir() else base
    new = (base / "images" / "10k").is_dir()
    before = "images/10k/" if new else "images/"
    after = "labels/sem_seg/masks/" if new else "labels/"
    images = images_below(base, before + split, argument, limits)
    masks = None
    if split != "test":
        existing(base / (after + split), argument)
        masks = masks_of(images, (before, after), (".jpg", ".png" if new else "_train_id.png"))
    official = OFFICIAL["bdd100k"].get(split)
    ids, ignored = TRAIN_IDS, [IGNORE]
    return street_files(
        images, masks, classes, ids, ignored=ignored, official=official, limits=limits
    )


def mapillary(
    root: str | Path,
    split: Literal["training", "validation", "testing"],
    *,
    classes: str | Path = "cityscapes",
    argument: str = "data.root",
    limits: Limits | None = None,
) -> Files:
    """Mapillary Vistas 1.2: 18,000 training, 2,000 validation, 5,000 testing images of any size.

    ``<split>/images/*.jpg`` with palette files ``<split>/labels/*.png``, or ``<split>/v1.2/labels``
    where version 2.0 was downloaded, which holds both. Of its 66 classes those are taken that
    Cityscapes has.

    Args:
        root: the folder with ``training`` and ``validation``.
        split: training, validation or testing; testing has no labels.
        classes: label space of the task, some of Cityscapes' 19 classes.
        argument: the setting that names ``root``, for messages.
        limits: what may be opened.

    Raises:
        DataError: a folder is missing, or the labels are of version 2.0.
    """
    base = existing(Path(root), argument)
    images = images_below(base, f"{split}/images", argument, limits)
    masks = None
    if split != "testing":
        labels = vistas_labels(base, split)
        existing(base / labels, argument)
        masks = masks_of(images, (f"{split}/images/", f"{labels}/"), (".jpg", ".png"))
    official = OFFICIAL["mapillary"].get(split)
    ids, ignored = MAPILLARY_IDS, range(66)
    return street_files(
        images, masks, classes, ids, ignored=ignored, official=official, limits=limits
    )


def acdc(
    root: str | Path,
    split: str,
    *,
    conditions: Sequence[str] = CONDITIONS,
    classes: str | Path = "cityscapes",
    argument: str = "data.root",
    limits: Limits | None = None,
) -> Files:
    """ACDC (Sakaridis et al., ICCV 2021): 1920x1080 in fog, at night, in rain and snow.

    ``rgb_anon/<condition>/<split>/<sequence>/*_rgb_anon.png`` with
    ``gt/.../*_gt_labelTrainIds.png``; train, val, test, and unlabelled ``train_ref``, ``val_ref``,
    ``test_ref`` of the same places in clear weather.

    Args:
        root: the folder with ``rgb_anon`` and ``gt``.
        split: one of these.
        conditions: which of fog, night, rain and snow.
        classes: label space of the task, some of Cityscapes' 19 classes.
        argument: the setting that names ``root``, for messages.
        limits: what may be opened.

    Raises:
        DataError: a folder is missing.
        ValueError: another condition.
    """
    base = existing(Path(root), argument)
    images = PathList(base)
    for condition in conditions:
        _one_of("conditions", condition, CONDITIONS)
        folder = f"rgb_anon/{condition}/{split}"
        ending = "_rgb_ref_anon.png" if split.endswith("_ref") else "_rgb_anon.png"
        for name in images_below(base, folder, argument, limits, ending).names():
            images.append(name)
    masks = None
    if split in ("train", "val"):
        masks = masks_of(images, ("rgb_anon/", "gt/"), ("_rgb_anon.", "_gt_labelTrainIds."))
    return street_files(images, masks, classes, TRAIN_IDS, ignored=[IGNORE], limits=limits)


def _one_of(argument: str, value: str, options: Sequence[str]) -> None:
    if value not in options:
        raise ValueError(f"{argument} must be one of {list(options)}, got {value!r}")
