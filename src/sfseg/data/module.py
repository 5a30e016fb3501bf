"""The one DataModule: source, target and evaluation sets of an adaptation task."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader

from sfseg.checks import require_whole
from sfseg.data.cache import Cache, CacheSettings
from sfseg.data.check import Checks
from sfseg.data.colour import Distortion
from sfseg.data.crops import fitted_view
from sfseg.data.eval_sets import EvalSet, Judged
from sfseg.data.folder import WHOLE, FolderDataset, Sample, Scenes, ScenesFactory
from sfseg.data.geometry import EvalView, Geometry, Image, Size, View, resize_label, size_by
from sfseg.data.left_out import LeftOut
from sfseg.data.loading import available_cpus, loader
from sfseg.data.needs import served_domains, wanted_sets
from sfseg.data.opening import require_labels
from sfseg.data.pseudo_crops import Correction, correct, crop_pseudo_labels
from sfseg.data.sampling import EndlessBatches, EvalSampler, require_same_order
from sfseg.data.training import Training
from sfseg.labels import LabelSpace
from sfseg.pseudo.journal import Commit
from sfseg.pseudo.reader import PseudoLabels
from sfseg.pseudo.store import PseudoLabelStore
from sfseg.storage.lightning_state import processed_batches

DEFAULT_CHECKS = Checks()


class TargetImages(NamedTuple):
    """Names and sizes (height, width) of images, in the order of their set."""

    names: list[str]
    sizes: list[Size]


class AdaptationData(LightningDataModule):
    """Serves what the method needs and opens nothing else.

    A training batch is ``{"source": Batch}``, ``{"target": Batch}`` or both. Labels of the
    target's training images are served only for ``target_labels`` (an oracle); otherwise they
    are IGNORE, and :meth:`true_label` reads them for measurements alone. The source is opened
    only for ``source`` and ``source_eval``: other runs need no source folder at all.

    Args:
        labels: the task's label space.
        needs: what the method asks for: ``source``, ``target``, ``target_labels``, ``generated``
            images of it, and its ``pseudo_labels``, see :meth:`serve_pseudo_labels`;
            ``source_eval``, to be judged on the source without training on it; a
            ``source_model`` is not theirs to serve.
        scenes: what opens each set: ``source_train``, ``target_train``, ``target_eval``, on
            which the method is judged, and ``source_eval``, evaluated when the source is
            served; None where there is none.
        views: how training crops of ``source`` and ``target`` are drawn.
        colour: distortion of training images, or None.
        batch_size: images of each domain per step and process.
        eval_batch_size: images per evaluation step; more than 1 needs images of one size.
        eval_view: sizes of images and labels in evaluation.
        eval_sets: sets by name that the method is judged on in place of ``target_eval``, or None.
        cache: whether decoded images are kept on disk; None: not.
        num_workers: loader processes per domain.
        checks: what is read before training, and whether scenes may be left out.
        **training: the run's seed, how images are chosen and shown, and what training is divided
            into, see :class:`sfseg.data.training.Training`.
    """

    def __init__(
        self,
        *,
        labels: LabelSpace,
        needs: Sequence[str],
        scenes: Mapping[str, ScenesFactory | None],
        views: Mapping[str, View],
        colour: Distortion | None = None,
        batch_size: int = 8,
        eval_batch_size: int = 1,
        eval_view: EvalView = WHOLE,
        eval_sets: Mapping[str, EvalSet] | None = None,
        cache: CacheSettings | None = None,
        num_workers: int = 2,
        checks: Checks = DEFAULT_CHECKS,
        **training: Any,
    ) -> None:
        super().__init__()
        require_whole(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        require_whole(0, num_workers=num_workers)
        self.training = Training(**training)
        self.judged = Judged(eval_sets, eval_view)
        self.factories = wanted_sets(
            needs, {**scenes, **self.judged.factories}, judged=self.judged.domains,
            shows_style=self.training.translation is not None,
            has_others=self.training.replacement.is_given,
        )  # fmt: skip
        self.domains = served_domains(needs)
        """Of a training batch."""
        self.labels = labels
        self.needs = tuple(needs)
        self.views = dict(views)
        self.colour = colour
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.eval_view = eval_view
        self.cache = cache
        self.num_workers = min(num_workers, available_cpus())
        self.checks = checks
        self.left_out: dict[str, LeftOut] = {}
        self.seed = self.training.seed
        self.scenes: dict[str, Scenes] = {}
        self.caches: dict[str, Cache] = {}
        self.pseudo_labels: PseudoLabels | None = None
        self._position = 0

    def setup(self, stage: str) -> None:
        """Open the sets that ``stage`` (fit or validate) needs, and check them."""
        listed = self.judged.opened(self.labels, self.scenes)
        for name, factory in self.factories.items():
            if name in self.scenes or (stage != "fit" and name.endswith("train")):
                continue
            title = name.replace("_", " ")
            if (scenes := listed.get(name)) is None:
                scenes = self.training.opened(name, factory, self.labels, self.needs)
            with_labels = self._reads_labels(name) and scenes.has_labels
            if self._reads_labels(name) and not scenes.has_labels:
                require_labels(scenes, name)
            self.left_out[name] = self.checks.passed(scenes, title, with_labels=with_labels)
            self.scenes[name] = scenes
            domain, _, part = name.rpartition("_")
            if part == "train" and domain in self.domains:
                indices = self.left_out[name].indices
                self.views[domain] = fitted_view(self.views[domain], scenes, domain, indices)
            self._open_cache(name, with_labels)
        if "source_train" in self.scenes and not self.training.is_open:
            folder = None if self.cache is None else self.cache.folder
            self.training.open(self.scenes, self.left_out, self.views, self.caches, folder)

    def _open_cache(self, name: str, with_labels: bool) -> None:
        if self.cache is None:
            return
        domain, _, part = name.rpartition("_")
        view = self.judged.view_of(domain) if part == "eval" else self.views[domain]
        cache = self.cache.open(self.scenes[name], view, with_labels=with_labels)
        if cache is not None:
            cache.announce(name.replace("_", " "), self.left_out[name].indices)
            self.caches[name] = cache

    def _reads_labels(self, name: str) -> bool:
        return name != "target_train" or "target_labels" in self.needs

    @property
    def protocol(self) -> str:
        """What scores of this task stand for: classes, sizes of input and labels, and images.

        Images are left out of a set that has been opened, see :meth:`setup`.
        """
        opened = [self.left_out[name] for name in self.left_out if name.endswith("eval")]
        return self.judged.protocol(self.labels, opened)

    @property
    def eval_domains(self) -> tuple[str, ...]:
        """Domains of the evaluation loaders; what the method is judged on comes first."""
        domains = (*self.judged.domains, "source")
        return tuple(domain for domain in domains if f"{domain}_eval" in self.factories)

    def train_dataloader(self) -> CombinedLoader:
        rank, world_size = self._ranks()
        begun = self._trained_batches()
        loaders: dict[str, DataLoader[Sample]] = {}
        for domain in self.domains:
            name = f"{domain}_train"
            dataset = FolderDataset(
                self.scenes[name],
                view=self.views[domain],
                colour=self.colour,
                seed=self.seed,
                purpose=domain,
                use_labels=self._reads_labels(name),
                read=self.caches.get(name),
                on_error=self.checks.on_error,
                left_out=self.left_out[name].indices,
                restyle=self.training.restyle if domain == "source" else None,
            )
            batches = EndlessBatches(
                partial(self.training.order, domain, len(dataset)),
                self.batch_size,
                rank=rank,
                world_size=world_size,
                start=lambda: self._position + self._trained_batches() - begun,
                end=partial(self.training.end_of_part, self.trainer),
                share=self.training.share(domain, self.scenes),
            )
            loaders[domain] = self._loader(dataset, batch_sampler=batches)
        return CombinedLoader(loaders, mode="min_size")

    @property
    def follows_focus(self) -> bool:
        """Whether the sampler of the source prefers the classes that :meth:`focus` names."""
        return self.training.sampler.follows_focus

    def focus(self, classes: Sequence[int]) -> None:
        """Prefer source images of these classes, the most wanted first, from the next part on."""
        self.training.focus(classes)

    def val_dataloader(self) -> list[DataLoader[Sample]]:
        loaders = []
        for domain in self.eval_domains:
            name = f"{domain}_eval"
            dataset = FolderDataset(
                self.scenes[name], view=self.judged.view_of(domain), read=self.caches.get(name)
            )
            size = self.eval_batch_size
            loaders.append(self._loader(dataset, sampler=self._dealt(name), batch_size=size))
        return loaders

    def labelling_dataloader(self) -> DataLoader[Sample]:
        """This process's share of the target's training images, whole and without their labels."""
        name = "target_train"
        dataset = FolderDataset(self.scenes[name], view=self.eval_view, use_labels=False)
        return self._loader(dataset, sampler=self._dealt(name), batch_size=1)

    def serve_pseudo_labels(self, labels: PseudoLabels) -> None:
        """Show these with every training image of the target from now on.

        One process has them opened for writing: its checkpoints hold the state to return to.
        """
        self.pseudo_labels = labels

    def close(self) -> None:
        """Let another process write the pseudo-labels; changes since the last checkpoint go."""
        if isinstance(self.pseudo_labels, PseudoLabelStore):
            self.pseudo_labels.close()
        self.pseudo_labels = None

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Add the pseudo-labels as they are now, not as a loader saw them some batches ago.

        Raises:
            DataError: more scenes than may be left out have turned out unusable.
        """
        for domain in self.domains:
            for index, reason in batch.get(domain, {}).pop("left_out", []):
                self.left_out[f"{domain}_train"].add(index, reason)
        if self.pseudo_labels is not None and "target" in batch:
            target = batch["target"]
            label = self.crop_pseudo_labels(target["index"], target["geometry"])
            target["pseudo_label"] = label.to(target["image"].device, non_blocking=True)
        return batch

    def crop_pseudo_labels(self, index: Tensor, geometry: Tensor) -> Tensor:
        """Pseudo-labels (B, H, W) of crops of the target's training images as they are now."""
        assert self.pseudo_labels is not None, "served before training"
        places = zip(index.tolist(), geometry.tolist(), strict=True)
        return torch.from_numpy(crop_pseudo_labels(self.pseudo_labels, places))

    def count_pseudo_labels(self) -> Tensor:
        """Pixels (K,) of each class in the pseudo-labels as they are now."""
        assert self.pseudo_labels is not None, "served before training"
        return torch.from_numpy(self.pseudo_labels.class_counts())

    def correct_pseudo_label(
        self, index: int, geometry: Sequence[int], proposal: Image
    ) -> Correction:
        """Change pseudo-labels, on the process that writes them; see :func:`correct`."""
        assert isinstance(self.pseudo_labels, PseudoLabelStore), "not the writing process"
        return correct(self.pseudo_labels, index, Geometry(*geometry), proposal)

    def target_images(self) -> TargetImages:
        """What pseudo-labels of the target's training images are made for.

        One that is left out has the size of the next that is not: its file may say none.
        """
        scenes, left_out = self.scenes["target_train"], self.left_out["target_train"]
        names = [scenes.name(k) for k in range(len(scenes))]
        shown = [scenes.size(left_out.usable(k)) for k in range(len(scenes))]
        return TargetImages(names, [size_by(self.eval_view.size, size) for size in shown])

    def true_label(self, index: int) -> Image | None:
        """The label of a training image of the target, or None where there is none.

        It has the size of the image's pseudo-label.

        For measurements only: what a source-free method trains on never comes from here.
        """
        scenes = self.scenes["target_train"]
        if not scenes.has_labels:
            return None
        size = size_by(self.eval_view.size, scenes.size(index))
        return resize_label(scenes.label(index), size)

    def state_dict(self) -> dict[str, Any]:
        """The position in the endless sequence of batches: all that resuming needs."""
        state: dict[str, Any] = {
            "position": self._trained_batches(),
            "global_batch": self._global_batch(),
        }
        if self.training.focused is not None:
            state["focus"] = list(self.training.focused)
        if isinstance(self.pseudo_labels, PseudoLabelStore):
            commit = self.pseudo_labels.commit()
            state["pseudo_labels"] = {"folder": str(self.pseudo_labels.folder), **asdict(commit)}
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        require_same_order(state_dict["global_batch"], self._global_batch())
        self._position = int(state_dict["position"])
        if "focus" in state_dict:
            self.focus(state_dict["focus"])
        if isinstance(self.pseudo_labels, PseudoLabelStore):
            kept = state_dict["pseudo_labels"]
            self.pseudo_labels.restore(Commit(int(kept["generation"]), str(kept["digest"])))

    def _global_batch(self) -> int:
        return self.batch_size * self._ranks()[1]

    def _trained_batches(self) -> int:
        if self.trainer is None:
            return self._position
        # Checkpoints are written between "processed" and "completed" of a batch.
        return processed_batches(self.trainer)

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _dealt(self, name: str) -> EvalSampler:
        """This process's share of a set, of which every image comes once."""
        rank, world_size = self._ranks()
        left_out = self.left_out[name].indices
        return EvalSampler(
            len(self.scenes[name]), rank=rank, world_size=world_size, left_out=left_out
        )

    def _loader(self, dataset: FolderDataset, **arguments: Any) -> DataLoader[Sample]:
        # What a worker has learnt about a cache is worth more than its memory.
        keep, workers = bool(self.caches), self.num_workers
        return loader(dataset, num_workers=workers, seed=self.seed, persistent=keep, **arguments)
