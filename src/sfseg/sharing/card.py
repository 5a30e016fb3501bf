"""The card of a shared model: what it is, what was measured, and where not to trust it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from sfseg import __version__
from sfseg.labels import LabelSpace
from sfseg.report.scores_file import Scored
from sfseg.report.tables import percent, to_markdown
from sfseg.sharing.results import per_class

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASK = "image-segmentation"
NONE = "none"
WORST = 5
"""Classes that a card names as those that are found worst."""


class Facts(NamedTuple):
    """What a run's configuration says of the model, in words.

    name: title of the card.
    method: name of the method, and what it is.
    is_source_free: it was adapted without the source's data.
    backbone: name.
    backbone_terms: where its first weights come from, and their licence as far as that is known.
    head: name.
    source, target: names of the data that it has seen; empty where it has seen none.
    sets: names of the data that it is judged on, by the names that results have for them.
    training: seed, steps and so on, by their names.
    """

    name: str
    method: tuple[str, str]
    is_source_free: bool
    backbone: str
    backbone_terms: str
    head: str
    source: str
    target: str
    sets: Mapping[str, str]
    training: Mapping[str, str]


class Licence(NamedTuple):
    """Under which the weights are given away, as the hub's front matter says it; None: not said."""

    identifier: str | None = None
    name: str | None = None
    link: str | None = None


def card_text(
    facts: Facts,
    labels: LabelSpace,
    scores: Mapping[str, Scored],
    *,
    selection: str,
    licence: Licence,
    address: str,
) -> str:
    """The card in markdown, with the front matter that the hub reads.

    Args:
        facts: of the run.
        labels: of the network.
        scores: by set; empty where the weights were not evaluated.
        selection: how the weights were chosen; empty: the last ones.
        licence: of the weights.
        address: by which others load the model.
    """
    from huggingface_hub import ModelCardData

    labelled = {name: one for name, one in scores.items() if one.is_labelled}
    data = ModelCardData(
        model_name=facts.name,
        library_name="sfseg",
        pipeline_tag=TASK,
        license=licence.identifier,
        license_name=licence.name,
        license_link=licence.link,
        tags=_tags(facts),
        metrics=["mean_iou"] if labelled else None,
        eval_results=_eval_results(facts, labelled) or None,
    )
    if not labelled:
        data.pop("model_name")  # of the results alone
    parts = (
        f"---\n{data.to_yaml()}\n---\n\n# {facts.name}\n",
        _what(facts, labels),
        _results(labelled, selection),
        _protocol(facts, labels, labelled),
        _terms(facts, licence),
        _use(address),
        _distrust(facts, labelled, selection),
    )
    return "\n".join(parts)


def _tags(facts: Facts) -> list[str]:
    kind = "source-free-domain-adaptation" if facts.is_source_free else None
    tags = ["semantic-segmentation", "domain-adaptation", kind, facts.method[0], facts.backbone]
    return [tag for tag in tags if tag]


def _eval_results(facts: Facts, scores: Mapping[str, Scored]) -> "list[EvalResult]":
    from huggingface_hub import EvalResult

    found: list[EvalResult] = []
    for name, data in facts.sets.items():
        if (one := scores.get(name)) is None:
            continue
        values = {"mIoU": one.summary["mIoU"]}
        if one.before is not None:
            values["mIoU of the source model, before adaptation"] = one.before[0]["mIoU"]
        found += [
            EvalResult(
                task_type=TASK,
                dataset_type=data.partition(" ")[0],
                dataset_name=data,
                dataset_config=data,  # sets of one type and configuration would become one
                metric_type="mean_iou",
                metric_name=metric,
                metric_value=round(value, 6),
            )
            for metric, value in values.items()
            if value == value
        ]
    return found


def _what(facts: Facts, labels: LabelSpace) -> str:
    name, sentence = facts.method
    return (
        f"A network that gives each pixel one of {labels.num_classes} classes, trained with "
        "[sfseg](https://pypi.org/project/sfseg).\n\n"
        f"- Method: `{name}`. {sentence}\n"
        f"- Network: {facts.backbone} with the head {facts.head}\n"
        f"- Source: {facts.source or NONE}\n- Target: {facts.target or NONE}\n"
    )


def _results(scores: Mapping[str, Scored], selection: str) -> str:
    if not scores:
        return "## Results\n\nNot evaluated.\n"
    chosen = f"Of the {selection}." if selection else "Of the last checkpoint of the run."
    lines = [
        f"- {name}: mIoU {percent(one.summary['mIoU'])}"
        + (
            ""
            if one.before is None
            else f", source-only {percent(one.before[0]['mIoU'])} (before adaptation)"
        )
        for name, one in scores.items()
    ]
    return "\n".join(
        ["## Results\n", f"{chosen} In percent.\n", *lines, "", to_markdown(*per_class(scores))]
    )


def _protocol(facts: Facts, labels: LabelSpace, scores: Mapping[str, Scored]) -> str:
    said = dict.fromkeys(one.protocol for one in scores.values())
    colours = [[name, " ".join(map(str, colour))] for name, colour in
               zip(labels.classes, labels.palette, strict=True)]  # fmt: skip
    lines = [f"- {name}: {value}" for name, value in facts.training.items()]
    return "\n".join(
        [
            "## Protocol\n",
            *(f"- Evaluation: {text}" for text in said),
            *lines,
            f"- Label space: {labels.name}\n",
            to_markdown(["class", "red green blue"], colours),
        ]
    )


def _terms(facts: Facts, licence: Licence) -> str:
    name = licence.name or licence.identifier or "not stated by who shares it"
    link = f" ({licence.link})" if licence.link else ""
    return (
        f"## Licence of the weights\n\n{name}{link}. They come from {facts.backbone_terms}, and "
        f"from data with terms of their own: {_data(facts)}.\n"
    )


def _data(facts: Facts) -> str:
    return "; ".join(dict.fromkeys(data for data in (facts.source, facts.target) if data))


def _use(address: str) -> str:
    return (
        "## How to use it\n\n```python\nimport sfseg\n\n"
        f'model = sfseg.load("{address}")\n'
        'result = model.predict("photo.jpg")\nresult.overlay.save("overlay.png")\n'
        "print(result.shares)\n```\n\n"
        f"```bash\nsfseg-predict ckpt_path={address} images=photos output=out\n```\n\n"
        f"Shared with sfseg {__version__}. Nothing runs when the weights are opened.\n"
    )


def _distrust(facts: Facts, scores: Mapping[str, Scored], selection: str) -> str:
    lines = [
        f"- It has seen {_data(facts)}: nothing is known of other cameras and places.",
        "- Its confidence is a softmax that nobody has calibrated, and unknown objects get one of "
        "its classes.",
        "- Scores of other protocols cannot be compared with these.",
        "- It is a result of research; nobody's safety should rest on it.",
    ]
    for name, one in scores.items():
        known = sorted((value, key) for key, value in one.iou.items() if value == value)
        worst = ", ".join(f"{key} {percent(value)}" for value, key in known[:WORST])
        lines.append(f"- Classes found worst on {name}: {worst}.")
        if unseen := [key for key, value in one.iou.items() if value != value]:
            lines.append(f"- Classes that do not occur on {name}: {', '.join(unseen)}.")
    if "oracle" in selection:
        lines.append("- The weights were chosen by labels of the target: no run without them can.")
    return "\n".join(["## Where to distrust it\n", *lines, ""])


def without_licence(facts: Facts) -> str:
    """Why a licence must be given, and what is known."""
    return (
        "license must be given where a model goes to the hub, and sfseg guesses none: the weights "
        f"come from {facts.backbone_terms}, and from data with terms of their own "
        f"({_data(facts)}). Say license=<identifier of huggingface.co/docs/hub/"
        "repositories-licenses>, such as license=cc-by-nc-4.0, or license=other with license_name "
        "and license_link"
    )
